//! Where a coroutine stands: which line of which file, found by walking what it waits in, or its traceback.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::{ffi, intern};

use super::trampoline::{AccountedCoroutine, After};
use crate::loopaccount::Place;

/// Frames that are looked at to find the one that waits.
const MAX_FRAMES: usize = 64;
/// Lines of a stack that are kept.
const MAX_STACK: usize = 16;

/// The innermost line of a coroutine that is not asyncio's own, and those above it.
pub(super) fn place(py: Python<'_>, after: &After<'_, '_>) -> Option<Place> {
    let frames = match after {
        After::Suspended(driven) => waiting_frames(driven),
        After::Returned(driven) => first_line(driven).map(|line| vec![line]).unwrap_or_default(),
        After::Raised(error) => traceback_frames(py, error),
    };
    let asyncio = asyncio_folder(py);
    let own: Vec<_> = frames
        .iter()
        .filter(|(file, ..)| asyncio.is_none_or(|folder| !file.starts_with(folder)))
        .collect();
    let (file, line, function) = own.last().copied().or(frames.last())?;
    let above = own.len().saturating_sub(1);
    Some(Place {
        file: file.clone(),
        line: *line,
        function: function.clone(),
        stood: after.stood(),
        stack: own[..above]
            .iter()
            .take(MAX_STACK)
            .map(|(file, line, function)| format!("{file}:{line} {function}"))
            .collect(),
    })
}

type Line = (String, u32, String);

fn line_of(frame: &Bound<'_, PyAny>, line: &Bound<'_, PyAny>) -> PyResult<Line> {
    let py = frame.py();
    let code = frame.getattr(intern!(py, "f_code"))?;
    code_line(&code, line)
}

fn code_line(code: &Bound<'_, PyAny>, line: &Bound<'_, PyAny>) -> PyResult<Line> {
    let py = code.py();
    Ok((
        code.getattr(intern!(py, "co_filename"))?.extract()?,
        line.extract().unwrap_or(0),
        code.getattr(intern!(py, "co_qualname"))?.extract()?,
    ))
}

/// What a coroutine waits in, from its own frame inwards. Only the interpreter's own types are asked, which run no code.
#[allow(unsafe_code)]
fn waiting_frames(driven: &Bound<'_, PyAny>) -> Vec<Line> {
    let py = driven.py();
    let mut frames = Vec::new();
    let mut at = driven.clone();
    for _ in 0..MAX_FRAMES {
        if let Ok(inner) = at.cast::<AccountedCoroutine>() {
            let inner = inner.get().driven(py).clone();
            at = inner;
            continue;
        }
        // SAFETY: a live object.
        let (is_coroutine, is_generator) = unsafe {
            (
                ffi::PyCoro_CheckExact(at.as_ptr()) == 1,
                ffi::PyGen_CheckExact(at.as_ptr()) == 1,
            )
        };
        let (frame, next) = if is_coroutine {
            (intern!(py, "cr_frame"), intern!(py, "cr_await"))
        } else if is_generator {
            (intern!(py, "gi_frame"), intern!(py, "gi_yieldfrom"))
        } else {
            break;
        };
        let line = at
            .getattr(frame)
            .and_then(|frame| line_of(&frame, &frame.getattr(intern!(py, "f_lineno"))?));
        let Ok(line) = line else { break };
        frames.push(line);
        let Ok(inner) = at.getattr(next) else { break };
        at = inner;
    }
    frames
}

/// Where the function of a coroutine begins.
fn first_line(driven: &Bound<'_, PyAny>) -> Option<Line> {
    let py = driven.py();
    let code = driven
        .getattr(intern!(py, "cr_code"))
        .or_else(|_| driven.getattr(intern!(py, "gi_code")))
        .ok()?;
    let line = code.getattr(intern!(py, "co_firstlineno")).ok()?;
    code_line(&code, &line).ok()
}

fn traceback_frames(py: Python<'_>, error: &PyErr) -> Vec<Line> {
    let mut frames = Vec::new();
    let mut at = error.traceback(py).map(Bound::into_any);
    while let Some(traceback) = at.filter(|_| frames.len() < MAX_FRAMES) {
        let line = traceback
            .getattr(intern!(py, "tb_frame"))
            .and_then(|frame| line_of(&frame, &traceback.getattr(intern!(py, "tb_lineno"))?));
        let Ok(line) = line else { break };
        frames.push(line);
        at = traceback
            .getattr(intern!(py, "tb_next"))
            .ok()
            .filter(|next| !next.is_none());
    }
    frames
}

/// The folder of asyncio: that a coroutine waits in `asyncio.sleep` says nothing of who wrote it.
fn asyncio_folder(py: Python<'_>) -> Option<&'static str> {
    static FOLDER: PyOnceLock<Option<String>> = PyOnceLock::new();
    FOLDER
        .get_or_init(py, || {
            let path = py
                .import("asyncio")
                .and_then(|module| module.getattr("__path__"))
                .ok()?;
            path.get_item(0).ok()?.extract().ok()
        })
        .as_deref()
}
