//! The metrics as Python sees them.

use std::collections::HashSet;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::rooms;
use crate::metrics::{Cell, Collect, FAMILIES, Family, Format, Kind, Scrape, Value, Values, named, render};

/// The rooms that keep numbers of their own.
const ROOMS: &[Collect] = &[
    crate::context::collect,
    super::engines::collect,
    super::limits::collect,
    super::lanes::collect,
    super::audit::collect,
    rooms::events,
    rooms::crossings,
    rooms::rollouts,
    rooms::build,
];

/// The child of a fork counts for itself, from zero.
pub(crate) fn after_fork_in_child() {
    super::engines::after_fork_in_child();
    super::limits::after_fork_in_child();
    super::audit::after_fork_in_child();
    crate::context::after_fork_in_child();
    crate::metrics::after_fork_in_child();
}

fn refuse(message: String) -> PyErr {
    PyValueError::new_err(message)
}

fn quoted(words: impl IntoIterator<Item = &'static str>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("'{word}'")).collect();
    words.join(", ")
}

/// What all methods that change a series come to.
fn expect(family: &Family, kind: Kind, method: &str) -> PyResult<()> {
    if family.kind == kind {
        return Ok(());
    }
    let has = match family.kind {
        Kind::Counter => "inc",
        Kind::Gauge => "set and add",
        Kind::Histogram => "observe",
    };
    let kind = family.kind.name();
    Err(refuse(format!(
        "{} is a {kind}, which has no {method}; use {has}",
        family.sample
    )))
}

fn increase(family: &Family, cell: &Cell, by: i64) -> PyResult<()> {
    expect(family, Kind::Counter, "inc")?;
    let Ok(by) = u64::try_from(by) else {
        return Err(refuse(format!(
            "{} is a counter, which only grows; by must not be negative",
            family.sample
        )));
    };
    cell.increase(by);
    Ok(())
}

fn set(family: &Family, cell: &Cell, level: f64) -> PyResult<()> {
    expect(family, Kind::Gauge, "set")?;
    cell.set(level);
    Ok(())
}

fn shift(family: &Family, cell: &Cell, by: f64) -> PyResult<()> {
    expect(family, Kind::Gauge, "add")?;
    cell.shift(by);
    Ok(())
}

fn observe(family: &Family, cell: &Cell, value: f64) -> PyResult<()> {
    expect(family, Kind::Histogram, "observe")?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` keeps to the bounds, and NaN is zero
    cell.observe((value * family.scale()) as u64);
    Ok(())
}

fn value(family: &Family, cell: &Cell) -> f64 {
    match family.kind {
        Kind::Counter => cell.count() as f64,
        Kind::Gauge => cell.level(),
        Kind::Histogram => cell.observed() as f64,
    }
}

/// A family of series. One without labels is its only series itself.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct Metric(&'static Family);

impl Metric {
    fn only(&self) -> PyResult<&'static Cell> {
        if self.0.labels.is_empty() {
            return Ok(self.0.cell(0));
        }
        let labels = quoted(self.0.labels.iter().map(|label| label.name));
        Err(refuse(format!(
            "{} has the labels {labels}; take one series with labels(...) first",
            self.0.sample
        )))
    }
}

#[pymethods]
impl Metric {
    /// The name of its samples.
    #[getter]
    #[allow(clippy::misnamed_getters)] // who reads it sees the name in a scrape
    fn name(&self) -> &'static str {
        self.0.sample
    }

    /// `counter`, `gauge` or `histogram`.
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind.name()
    }

    /// The series with these values of the labels, in the order of the labels. Who counts often keeps it.
    ///
    /// A label with a closed list raises `ValueError` for another value. Of a capped one the first 100 names of the process are
    /// told apart, the rest is `_other`.
    #[pyo3(signature = (*values))]
    fn labels(&self, values: &Bound<'_, PyTuple>) -> PyResult<Series> {
        let labels = self.0.labels;
        if values.len() != labels.len() {
            let wanted = quoted(labels.iter().map(|label| label.name));
            return Err(refuse(format!(
                "{} has {} labels ({wanted}), and {} values were given; give one for each, in this order",
                self.0.sample,
                labels.len(),
                values.len()
            )));
        }
        let mut key = 0;
        for (label, value) in labels.iter().zip(values) {
            let text: &str = value.extract()?;
            let Some(number) = label.index(text) else {
                let Values::Closed(all) = label.values else {
                    unreachable!("a capped label takes every name")
                };
                return Err(refuse(format!(
                    "the label {} of {} cannot have this value; it is one of {}",
                    label.name,
                    self.0.sample,
                    quoted(all.iter().copied())
                )));
            };
            key = key * label.size() + number;
        }
        Ok(Series {
            family: self.0,
            cell: self.0.cell(key),
        })
    }

    /// Adds to a counter.
    #[pyo3(signature = (by = 1))]
    fn inc(&self, by: i64) -> PyResult<()> {
        increase(self.0, self.only()?, by)
    }

    /// Sets a gauge.
    fn set(&self, value: f64) -> PyResult<()> {
        set(self.0, self.only()?, value)
    }

    /// Adds to a gauge; a negative number is taken from it.
    fn add(&self, by: f64) -> PyResult<()> {
        shift(self.0, self.only()?, by)
    }

    /// Counts a value into a histogram. A negative one counts as zero.
    fn observe(&self, value: f64) -> PyResult<()> {
        observe(self.0, self.only()?, value)
    }

    /// The number; of a histogram, how many values were observed.
    #[getter]
    fn value(&self) -> PyResult<f64> {
        Ok(value(self.0, self.only()?))
    }
}

/// One series of a family.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct Series {
    family: &'static Family,
    cell: &'static Cell,
}

#[pymethods]
impl Series {
    /// Adds to a counter.
    #[pyo3(signature = (by = 1))]
    fn inc(&self, by: i64) -> PyResult<()> {
        increase(self.family, self.cell, by)
    }

    /// Sets a gauge.
    fn set(&self, value: f64) -> PyResult<()> {
        set(self.family, self.cell, value)
    }

    /// Adds to a gauge; a negative number is taken from it.
    fn add(&self, by: f64) -> PyResult<()> {
        shift(self.family, self.cell, by)
    }

    /// Counts a value into a histogram. A negative one counts as zero.
    fn observe(&self, value: f64) -> PyResult<()> {
        observe(self.family, self.cell, value)
    }

    /// The number; of a histogram, how many values were observed.
    #[getter]
    fn value(&self) -> f64 {
        value(self.family, self.cell)
    }
}

/// The family of that name, with or without the `_total` of a counter.
///
/// What the rooms count themselves cannot be taken: it is read when somebody asks, and stands in `metrics_snapshot()`.
#[pyfunction]
pub(crate) fn metric(name: &str) -> PyResult<Metric> {
    let Some(family) = named(name) else {
        return Err(refuse(
            "there is no metric of this name; metric_families() lists them".to_owned(),
        ));
    };
    if family.collected {
        return Err(refuse(format!(
            "{} is kept where it arises, and is only read; take it from metrics_snapshot()",
            family.sample
        )));
    }
    Ok(Metric(family))
}

/// All families: `name` (without the `_total` of a counter), `sample` (with it), `kind`, `help`, `unit` or `None`, `labels` (by
/// name, the list of values or, of one that is capped, how many names are told apart), `buckets` and `collected`.
#[pyfunction]
#[pyo3(signature = () -> "list[dict[str, typing.Any]]")]
pub(crate) fn metric_families(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    for family in &FAMILIES {
        let (dict, labels) = (PyDict::new(py), PyDict::new(py));
        for label in family.labels {
            match label.values {
                Values::Closed(all) => labels.set_item(label.name, all)?,
                Values::Capped(names) => labels.set_item(label.name, names.cap())?,
            }
        }
        dict.set_item("name", family.name)?;
        dict.set_item("sample", family.sample)?;
        dict.set_item("kind", family.kind.name())?;
        dict.set_item("help", family.help)?;
        dict.set_item("unit", family.unit())?;
        dict.set_item("labels", labels)?;
        dict.set_item("buckets", family.buckets)?;
        dict.set_item("collected", family.collected)?;
        list.append(dict)?;
    }
    Ok(list)
}

/// Everything that was measured, as the text of a scrape: `openmetrics` (1.0) or `prometheus` (0.0.4).
#[pyfunction]
#[pyo3(signature = (format = "openmetrics"))]
pub(crate) fn render_metrics(format: &str) -> PyResult<String> {
    let format = match format {
        "openmetrics" => Format::OpenMetrics,
        "prometheus" => Format::Prometheus,
        _ => return Err(refuse("format must be 'openmetrics' or 'prometheus'".to_owned())),
    };
    Ok(render(&Scrape::of(ROOMS), format))
}

/// Everything that was measured, by the name of its samples: `kind`, `help` and `series`, a list of `labels` with `value`, or
/// of a histogram with `count`, `sum` and `buckets`, pairs of an upper bound and how many values it is not below. With `names`
/// only these families, with or without the `_total` of their samples; a name that there is not is left out.
#[pyfunction]
#[pyo3(signature = (names = None) -> "dict[str, dict[str, typing.Any]]")]
pub(crate) fn metrics_snapshot(py: Python<'_>, names: Option<HashSet<String>>) -> PyResult<Bound<'_, PyDict>> {
    let scrape = Scrape::of(ROOMS);
    let all = PyDict::new(py);
    let wanted = |family: &&Family| {
        names
            .as_ref()
            .is_none_or(|names| names.contains(family.name) || names.contains(family.sample))
    };
    for family in FAMILIES.iter().filter(wanted) {
        let series = PyList::empty(py);
        let mut failed = None;
        scrape.each(family, |key, value| {
            if let Err(error) = show(py, &series, family, key, value) {
                failed = Some(error);
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if series.is_empty() {
            continue;
        }
        let dict = PyDict::new(py);
        dict.set_item("kind", family.kind.name())?;
        dict.set_item("help", family.help)?;
        dict.set_item("series", series)?;
        all.set_item(family.sample, dict)?;
    }
    Ok(all)
}

fn show(
    py: Python<'_>,
    series: &Bound<'_, PyList>,
    family: &'static Family,
    key: usize,
    value: Value<'_>,
) -> PyResult<()> {
    let (dict, labels) = (PyDict::new(py), PyDict::new(py));
    for (label, number) in family.numbers(key) {
        labels.set_item(label.name, label.text(number))?;
    }
    dict.set_item("labels", labels)?;
    match value {
        Value::Count(many) => dict.set_item("value", many)?,
        Value::Level(level) => dict.set_item("value", level)?,
        Value::Spread(buckets, sum) => {
            let mut count = 0;
            let pairs = PyList::empty(py);
            for (at, many) in buckets.iter().enumerate() {
                count += many;
                let bound = family.buckets.get(at).copied().unwrap_or(f64::INFINITY);
                pairs.append(PyList::new(
                    py,
                    [bound.into_pyobject(py)?.into_any(), count.into_pyobject(py)?.into_any()],
                )?)?;
            }
            dict.set_item("count", count)?;
            dict.set_item("sum", sum)?;
            dict.set_item("buckets", pairs)?;
        }
    }
    series.append(dict)
}

/// Whether anything is counted.
#[pyfunction]
pub(crate) fn metrics_enabled() -> bool {
    crate::metrics::enabled()
}

/// Switches counting on or off; what was counted stays. Returns whether it was on.
#[pyfunction]
pub(crate) fn set_metrics_enabled(on: bool) -> bool {
    crate::metrics::set_enabled(on)
}
