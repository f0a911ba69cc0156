//! `EventCursor`: a socket's view of its user's streams.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::awaitable::{ReadyNone, Stand, Steps, as_next};
use super::loops::{FutureSteps, LoopFuture, Step};
use super::process::{CLOCK, Stamp, lane_of};
use crate::clock::Clock;
use crate::events::{ClientFrame, Connection, CursorMode, Streams, Wake, frame};

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
    stamp: Stamp,
}

impl Drop for EventCursor {
    fn drop(&mut self) {
        if self.stamp.is_current() {
            Streams::detach(&self.inner);
        }
    }
}

#[pymethods]
impl EventCursor {
    /// Attaches a socket to the user's lane. `framed=True` for `isolane.v1`, `False` for bare messages. One more than
    /// `max_connections` replaces the socket that read longest ago, which gets close code 4504.
    #[new]
    #[pyo3(signature = (user_id, *, framed = true, max_connections = 3))]
    fn new(py: Python<'_>, user_id: &str, framed: bool, max_connections: usize) -> PyResult<Self> {
        let lane = lane_of(py, user_id)?;
        let mode = if framed { CursorMode::Framed } else { CursorMode::Plain };
        let inner = Streams::attach(&lane, mode, max_connections, CLOCK.monotonic());
        Ok(Self {
            inner,
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

    /// Queues the welcome of `isolane.v1`.
    fn welcome(&self, py: Python<'_>, ping_ms: u64) -> PyResult<()> {
        self.stamp.check(py)?;
        self.inner.welcome(ping_ms);
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

    /// Handles a frame of a client: answers `sub`, `pong` or `ignored`. Raises `ValueError` for one that is not well-formed.
    fn handle(&self, py: Python<'_>, text: &str) -> PyResult<&'static str> {
        self.stamp.check(py)?;
        self.inner.heard();
        match ClientFrame::parse(text).map_err(PyValueError::new_err)? {
            ClientFrame::Subscribe {
                stream,
                epoch,
                position,
            } => {
                self.inner.subscribe(&stream, epoch.as_deref(), position);
                Ok("sub")
            }
            ClientFrame::Pong => Ok("pong"),
            ClientFrame::Unknown => Ok("ignored"),
        }
    }

    /// The texts to send, for about `limit` events at most; empty when there is nothing.
    #[pyo3(signature = (limit = 64))]
    fn read(&self, py: Python<'_>, limit: usize) -> PyResult<Vec<String>> {
        self.stamp.check(py)?;
        Ok(self.inner.read(limit, CLOCK.monotonic()))
    }

    /// The same as ASGI messages.
    #[pyo3(signature = (limit = 64) -> "list[dict[str, typing.Any]]")]
    fn read_asgi<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyList>> {
        let messages = PyList::empty(py);
        for text in self.read(py, limit)? {
            let message = PyDict::new(py);
            message.set_item(intern!(py, "type"), intern!(py, "websocket.send"))?;
            message.set_item(intern!(py, "text"), text)?;
            messages.append(message)?;
        }
        Ok(messages)
    }

    /// Waits until there is something to read or the socket is to be closed.
    #[pyo3(signature = () -> "collections.abc.Awaitable[None]")]
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.stamp.check(py)?;
        let waker = Arc::new(Waker(LoopFuture::new(py)?));
        if !self.inner.park(waker.clone()) {
            return Ok(ReadyNone::shared(py)?.into_any());
        }
        let waiting = CursorAwaitable {
            connection: self.inner.clone(),
            waker,
            steps: FutureSteps::default(),
        };
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
}

impl CursorAwaitable {
    fn after<'py>(&self, py: Python<'py>, step: PyResult<Step<'py>>) -> PyResult<Stand<'py>> {
        match step {
            Ok(Step::Pending(future)) => Ok(Stand::Pending(future)),
            Ok(Step::Done) => Ok(Stand::Answered(py.None().into_bound(py))),
            Err(error) => {
                self.close();
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
        self.close();
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

    /// Waits no longer. A waker that another wait has parked since is left alone.
    fn close(&self) {
        let own: Arc<dyn Wake> = self.waker.clone();
        self.connection.unpark_if(&own);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // While the connection holds the waker as well, its future is reached from there.
        if Arc::strong_count(&self.waker) == 1 {
            self.waker.0.traverse(&visit)?;
        }
        self.steps.traverse(&visit)
    }
}

/// The frame with which the server says that it is about to close.
#[pyfunction]
pub(crate) fn bye_frame(code: u16, retry_ms: u64) -> String {
    frame::bye(code, retry_ms)
}

/// The subprotocol's name, `isolane.v1`.
pub(crate) const SUBPROTOCOL: &str = frame::SUBPROTOCOL;
