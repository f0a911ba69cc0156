//! `EventCursor`: a socket's view of its user's streams.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::awaitable::{ReadyNone, Stand, Steps, as_next};
use super::errors::to_python;
use super::isolation::gate;
use super::loops::{FutureSteps, LoopFuture, Step, beside_exception};
use super::process::{CLOCK, Stamp, lane_of};
use crate::clock::{Clock, SECOND, seconds};
use crate::events::{
    CancelState, ClientFrame, Connection, CursorMode, EventError, Options, Outcome, Parking, Streams, Wake, deflate,
    frame,
};
use crate::isolation::Boundary;
use crate::mutants::mutant;

/// Added to a wait for what may be written later: loops ring up to a millisecond early.
const LATE: u64 = SECOND / 1_000;

struct Waker(LoopFuture);

impl Wake for Waker {
    fn wake(&self) {
        self.0.complete();
    }
}

/// One socket of a user: a cursor that sees all of the user's runs. Frees itself when it is collected; freeing it ends no run.
#[pyclass(frozen, weakref, module = "isolane._core")]
pub(crate) struct EventCursor {
    inner: Arc<Connection>,
    compresses: bool,
    stamp: Stamp,
}

impl Drop for EventCursor {
    fn drop(&mut self) {
        if self.stamp.is_current() {
            Streams::detach(&self.inner);
        }
    }
}

/// Nothing more is written to a socket that was about to be sent something of another user.
const FORBIDDEN: u16 = 4503;

impl EventCursor {
    /// What the detector, if one is installed, lets pass to the socket: all of it, or nothing and the socket is closed.
    fn passed<T>(&self, py: Python<'_>, texts: Vec<T>, text: impl Fn(&T) -> &str) -> Vec<T> {
        if !gate::is_on(Boundary::WsOut) {
            return texts;
        }
        let user = self.inner.lane().user().as_str();
        if texts.iter().all(|each| gate::may_write(py, user, text(each))) {
            return texts;
        }
        self.inner.close(FORBIDDEN);
        Vec::new()
    }
}

#[pymethods]
impl EventCursor {
    /// Attaches a socket to the user's lane. `framed=True` for `isolane.v1`, `False` for bare messages; `records=True` for the
    /// events of one run, for `read_records`. One more than `max_connections` replaces the socket that has acknowledged
    /// nothing for longest, or was read from longest ago, which gets close code 4504.
    ///
    /// With `acks` more than 256 KiB or 512 un-acked events make it pause. With `defers` what is not urgent waits for what
    /// comes after it. Without `batching` a frame holds one event. With `compresses` large frames of `read_asgi` are bytes.
    #[new]
    #[pyo3(signature = (
        user_id, *, framed = true, max_connections = 3, acks = false, defers = false, batching = true, compresses = false,
        records = false
    ))]
    #[allow(clippy::fn_params_excessive_bools)] // they are keywords in Python
    fn new(
        py: Python<'_>,
        user_id: &str,
        framed: bool,
        max_connections: usize,
        acks: bool,
        defers: bool,
        batching: bool,
        compresses: bool,
        records: bool,
    ) -> PyResult<Self> {
        let lane = lane_of(py, user_id)?;
        let mode = match (records, framed) {
            (true, _) => CursorMode::Sse,
            (false, true) => CursorMode::Framed,
            (false, false) => CursorMode::Plain,
        };
        let is_framed = mode == CursorMode::Framed;
        let options = Options {
            acks: acks && is_framed,
            defers,
            batches: batching,
        };
        let inner = Streams::attach_with(&lane, mode, options, max_connections, CLOCK.monotonic());
        Ok(Self {
            inner,
            compresses: compresses && is_framed,
            stamp: Stamp::now(),
        })
    }

    /// The name of the connection, as in the welcome.
    #[getter]
    fn connection_id(&self) -> &str {
        self.inner.id()
    }

    /// The user.
    #[getter]
    fn user_id(&self) -> &str {
        self.inner.lane().user().as_str()
    }

    /// The close code, once the socket is to be closed.
    #[getter]
    fn close_code(&self) -> Option<u16> {
        self.inner.close_code()
    }

    /// Queues the welcome of `isolane.v1`. `reconnect_attempts` is how often in a row the client is to try again, 0 for ever.
    #[pyo3(signature = (ping_ms, *, reconnect_attempts = 3))]
    fn welcome(&self, py: Python<'_>, ping_ms: u64, reconnect_attempts: u64) -> PyResult<()> {
        self.stamp.check(py)?;
        self.inner.welcome(ping_ms, reconnect_attempts, self.compresses);
        Ok(())
    }

    /// Queues a ping with the latest number of each stream.
    fn ping(&self, py: Python<'_>) -> PyResult<()> {
        self.stamp.check(py)?;
        self.inner.ping();
        Ok(())
    }

    /// Reads a stream from after `position` of `epoch`; without them from its beginning. Returns the mode: `exact`, `snapshot`,
    /// `reset`, or `gone` for streams that are unknown or another user's.
    #[pyo3(signature = (run_id, epoch = None, position = None))]
    fn subscribe(
        &self,
        py: Python<'_>,
        run_id: &str,
        epoch: Option<&str>,
        position: Option<u64>,
    ) -> PyResult<&'static str> {
        self.stamp.check(py)?;
        Ok(self.inner.subscribe(run_id, epoch, position).name())
    }

    /// Reads a stream from after the record with the id `last_event_id`. Returns the mode as `subscribe` does, or `None` when
    /// the client was told the end: then nothing is read.
    fn subscribe_after(&self, py: Python<'_>, run_id: &str, last_event_id: &str) -> PyResult<Option<&'static str>> {
        self.stamp.check(py)?;
        let mode = self.inner.subscribe_after(run_id, last_event_id);
        Ok(mode.map(crate::events::SubscribeMode::name))
    }

    /// Handles a frame of a client: answers `sub`, `ack`, `pong` or `ignored`, and `refused` when it gave too many commands,
    /// which closes the connection. A wish to cancel a run is returned, as the run and what the client calls the wish, to be
    /// answered by `answer_cancel`; `auth_refresh` is for the caller to read, and to answer by `auth_refreshed`. Raises
    /// `ValueError` for a frame that is not well-formed.
    #[pyo3(signature = (text) -> "str | tuple[str, str | None]")]
    fn handle<'py>(&self, py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
        self.stamp.check(py)?;
        self.inner.heard();
        let frame = ClientFrame::parse(text).map_err(PyValueError::new_err)?;
        let now = CLOCK.monotonic();
        let is_command = matches!(
            frame,
            ClientFrame::Subscribe { .. } | ClientFrame::Cancel { .. } | ClientFrame::AuthRefresh
        );
        if is_command && !self.inner.may_command(now) {
            return Ok(intern!(py, "refused").clone().into_any());
        }
        let said = match frame {
            ClientFrame::Subscribe {
                stream,
                epoch,
                position,
            } => {
                self.inner.subscribe(&stream, epoch.as_deref(), position);
                intern!(py, "sub")
            }
            ClientFrame::Ack(acks) => {
                self.inner.ack(acks.iter(), now);
                intern!(py, "ack")
            }
            ClientFrame::Cancel { run, command } => return Ok((run, command).into_pyobject(py)?.into_any()),
            ClientFrame::AuthRefresh => intern!(py, "auth_refresh"),
            ClientFrame::Pong => intern!(py, "pong"),
            ClientFrame::Unknown => intern!(py, "ignored"),
        };
        Ok(said.clone().into_any())
    }

    /// Queues the answer to a wish to cancel a run: `accepted`, `ended` or `gone`.
    fn answer_cancel(&self, py: Python<'_>, run_id: &str, cid: Option<&str>, state: &str) -> PyResult<()> {
        self.stamp.check(py)?;
        let all = [CancelState::Accepted, CancelState::Ended, CancelState::Gone];
        let Some(state) = all.into_iter().find(|known| known.name() == state) else {
            return Err(PyValueError::new_err("state must be 'accepted', 'ended' or 'gone'"));
        };
        self.inner.answer_cancel(run_id, cid, state);
        Ok(())
    }

    /// Queues the announcement that the sign-in ends in so many milliseconds.
    fn auth_expiring(&self, py: Python<'_>, expires_in_ms: u64) -> PyResult<()> {
        self.stamp.check(py)?;
        self.inner.auth_expiring(expires_in_ms);
        Ok(())
    }

    /// Queues the answer to a client that signed in again; `None` when the sign-in does not end by itself.
    #[pyo3(signature = (expires_in_ms = None))]
    fn auth_refreshed(&self, py: Python<'_>, expires_in_ms: Option<u64>) -> PyResult<()> {
        self.stamp.check(py)?;
        self.inner.auth_refreshed(expires_in_ms);
        Ok(())
    }

    /// Seconds since an ack became due that has not come, or `None`.
    fn ack_overdue(&self) -> Option<f64> {
        self.inner.ack_overdue(CLOCK.monotonic()).map(seconds)
    }

    /// The texts to send, for about `limit` events at most; empty when there is nothing.
    #[pyo3(signature = (limit = 64))]
    fn read(&self, py: Python<'_>, limit: usize) -> PyResult<Vec<String>> {
        self.stamp.check(py)?;
        Ok(self.passed(py, self.inner.read(limit, CLOCK.monotonic()), String::as_str))
    }

    /// The same as ASGI messages. Large frames of a socket that compresses are bytes.
    #[pyo3(signature = (limit = 64) -> "list[dict[str, typing.Any]]")]
    fn read_asgi<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyList>> {
        let messages = PyList::empty(py);
        for text in self.read(py, limit)? {
            let message = PyDict::new(py);
            message.set_item(intern!(py, "type"), intern!(py, "websocket.send"))?;
            let packed = if self.compresses { deflate::deflate(&text) } else { None };
            match packed {
                Some(packed) => message.set_item(intern!(py, "bytes"), PyBytes::new(py, &packed))?,
                None => message.set_item(intern!(py, "text"), text)?,
            }
            messages.append(message)?;
        }
        Ok(messages)
    }

    /// The records of an event stream to send: type, data and, where the client may resume, id. For a cursor of records.
    #[pyo3(signature = (limit = 64))]
    fn read_records(&self, py: Python<'_>, limit: usize) -> PyResult<Vec<(String, String, Option<String>)>> {
        self.stamp.check(py)?;
        let records = self.inner.read_records(limit, CLOCK.monotonic());
        let records = self.passed(py, records, |record| &record.data);
        Ok(records
            .into_iter()
            .map(|record| (record.event, record.data, record.id))
            .collect())
    }

    /// Says that the messages which were read last have been written, for a writer that reads no more. Else reading on
    /// says it.
    fn written(&self, py: Python<'_>) -> PyResult<()> {
        self.stamp.check(py)?;
        self.inner.written();
        Ok(())
    }

    /// Waits until there is something to read or the socket is to be closed.
    #[pyo3(signature = () -> "collections.abc.Awaitable[None]")]
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.stamp.check(py)?;
        let waker = Arc::new(Waker(LoopFuture::new(py)?));
        let now = CLOCK.monotonic();
        let looks_at = match self.inner.park_until(waker.clone(), now) {
            Parking::Ready => return Ok(ReadyNone::shared(py)?.into_any()),
            Parking::Until(looks_at) => looks_at,
        };
        let mut waiting = CursorAwaitable {
            connection: self.inner.clone(),
            waker,
            steps: FutureSteps::default(),
            timer: None,
        };
        if let Some(at) = looks_at {
            // Should this fail, the awaitable is dropped and takes its waker back.
            let left = seconds(at.saturating_sub(now) + LATE);
            waiting.timer = Some(waiting.waker.0.complete_after(py, left)?);
        }
        Ok(Bound::new(py, waiting)?.into_any())
    }

    /// Says that the socket is to be closed with `code`. The first code counts.
    fn close(&self, code: u16) {
        self.inner.close(code);
    }

    /// Frees the cursor. Nothing else: runs go on.
    fn detach(&self) {
        if self.stamp.is_current() {
            Streams::detach(&self.inner);
        }
    }

    fn __repr__(&self) -> String {
        format!("<EventCursor {}>", crate::ids::cut(self.inner.id(), 16))
    }
}

/// Waits for a connection to have something to read.
#[pyclass(frozen, module = "isolane._core", name = "_CursorAwaitable")]
pub(crate) struct CursorAwaitable {
    connection: Arc<Connection>,
    waker: Arc<Waker>,
    steps: FutureSteps,
    /// Rings when what may wait is to be written.
    timer: Option<Py<PyAny>>,
}

impl CursorAwaitable {
    /// Waits no longer. A waker that another wait has parked since is left alone.
    fn stop(&self, py: Python<'_>) {
        let own: Arc<dyn Wake> = self.waker.clone();
        self.connection.unpark_if(&own);
        if let Some(timer) = &self.timer {
            self.waker.0.cancel_timer(py, timer);
        }
    }

    fn after<'py>(&self, py: Python<'py>, step: PyResult<Step<'py>>) -> PyResult<Stand<'py>> {
        match step {
            Ok(Step::Pending(future)) => Ok(Stand::Pending(future)),
            Ok(Step::Done) => {
                if self.timer.is_some() {
                    // Either the timer rang, and the waker is parked, or the waker was woken, and the timer is set.
                    self.stop(py);
                }
                Ok(Stand::Answered(py.None().into_bound(py)))
            }
            Err(error) => {
                self.stop(py);
                Err(error)
            }
        }
    }
}

impl Steps for CursorAwaitable {
    fn step<'py>(slf: &Bound<'py, Self>) -> PyResult<Stand<'py>> {
        let (py, waiting) = (slf.py(), slf.get());
        waiting.after(py, waiting.steps.next(py, &waiting.waker.0))
    }
}

impl Drop for CursorAwaitable {
    fn drop(&mut self) {
        if self.timer.is_some() {
            Python::try_attach(|py| beside_exception(py, || self.stop(py)));
        } else {
            let own: Arc<dyn Wake> = self.waker.clone();
            self.connection.unpark_if(&own);
        }
    }
}

#[pymethods]
impl CursorAwaitable {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Steps::next(slf)
    }

    fn send<'py>(slf: &Bound<'py, Self>, _value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Steps::next(slf)
    }

    #[pyo3(signature = (*exception))]
    fn throw<'py>(&self, py: Python<'py>, exception: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        as_next(self.after(py, self.steps.throw(py, &self.waker.0, exception))?)
    }

    /// Waits no longer.
    fn close(&self, py: Python<'_>) {
        self.stop(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // While the connection holds the waker as well, its future is reached from there.
        if Arc::strong_count(&self.waker) == 1 {
            self.waker.0.traverse(&visit)?;
        }
        self.timer.as_ref().map_or(Ok(()), |timer| visit.call(timer))?;
        self.steps.traverse(&visit)
    }
}

/// Where a run of the user is: `running`, `ended`, or `gone` when there is none, or it is another user's.
#[pyfunction]
pub(crate) fn stream_state(py: Python<'_>, user_id: &str, run_id: &str) -> PyResult<&'static str> {
    let lane = lane_of(py, user_id)?;
    Ok(match lane.streams().find(run_id) {
        Some(log) if log.is_over() => "ended",
        Some(_) => "running",
        None if mutant!(ForeignRunCancelled) => "running",
        None => "gone",
    })
}

/// Ends the stream of a run as cancelled, for one that no engine runs. What is open in it is closed, and whoever publishes
/// gets `RunClosed`. Does nothing to a stream that has ended, is unknown or another user's. Raises `RunClosed` for one that
/// another worker publishes: it is cancelled there.
#[pyfunction]
pub(crate) fn cancel_stream(py: Python<'_>, user_id: &str, run_id: &str, reason: &str) -> PyResult<()> {
    let lane = lane_of(py, user_id)?;
    if let Some(log) = lane.streams().find(run_id) {
        if log.is_mirror() && !log.is_over() {
            return Err(to_python(py, EventError::Elsewhere));
        }
        let now = CLOCK.now();
        log.end(Some(Outcome::Cancelled), reason, now.unix, now.monotonic);
    }
    Ok(())
}

/// The frame with which the server says that it is about to close.
#[pyfunction]
pub(crate) fn bye_frame(code: u16, retry_ms: u64) -> String {
    frame::bye(code, retry_ms)
}

/// The subprotocol's name, `isolane.v1`.
pub(crate) const SUBPROTOCOL: &str = frame::SUBPROTOCOL;
