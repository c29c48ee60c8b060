//! I/O binding that shares values with its caller: the one place of the exporter with `unsafe`.
//!
//! `ort`'s own [`ort::session::IoBinding`] copies tensors when they are bound as inputs, so the
//! output of one step could not be the input of the next without a copy. Here a value is held
//! by reference count and its memory is what the graph reads and writes.

use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use ort::AsPointer;
use ort::session::Session;
use ort::value::DynValue;

use super::TrainError;

/// Inputs and outputs of a session, bound to values.
pub(super) struct Binding {
    raw: NonNull<ort::sys::OrtIoBinding>,
    /// What is bound stays alive as long as the binding; by name, inputs apart from outputs.
    held: Vec<(bool, String, Arc<DynValue>)>,
}

// SAFETY: a binding is a table of pointers without thread affinity; it is used through `&mut`.
unsafe impl Send for Binding {}

impl Binding {
    pub(super) fn new(session: &mut Session) -> Result<Self, TrainError> {
        let mut raw = ptr::null_mut();
        // SAFETY: the session is alive, and the out-pointer is ours.
        check(unsafe { (ort::api().CreateIoBinding)(session.ptr_mut(), &mut raw) })?;
        let raw = NonNull::new(raw).ok_or_else(|| TrainError::Runtime("no I/O binding was made".to_owned()))?;
        Ok(Binding { raw, held: Vec::new() })
    }

    /// Binds an input; an earlier value under that name is let go.
    pub(super) fn input(&mut self, name: &str, value: &Arc<DynValue>) -> Result<(), TrainError> {
        let c_name = c_string(name)?;
        // SAFETY: binding and value are alive; the value is held below for as long as it is bound.
        check(unsafe { (ort::api().BindInput)(self.raw.as_ptr(), c_name.as_ptr(), value.ptr()) })?;
        self.hold(true, name, value);
        Ok(())
    }

    /// Binds an output to a value of its type and shape, which every run overwrites.
    pub(super) fn output(&mut self, name: &str, value: &Arc<DynValue>) -> Result<(), TrainError> {
        let c_name = c_string(name)?;
        // SAFETY: as for inputs. The value was allocated with its shape; the runtime refuses to
        // write a result of another shape.
        check(unsafe { (ort::api().BindOutput)(self.raw.as_ptr(), c_name.as_ptr(), value.ptr()) })?;
        self.hold(false, name, value);
        Ok(())
    }

    fn hold(&mut self, input: bool, name: &str, value: &Arc<DynValue>) {
        self.held.retain(|(i, n, _)| (*i, n.as_str()) != (input, name));
        self.held.push((input, name.to_owned(), Arc::clone(value)));
    }

    /// Runs the session that the binding was made for, and waits for the outputs.
    pub(super) fn run(&mut self, session: &mut Session) -> Result<(), TrainError> {
        // SAFETY: session and binding are alive and borrowed exclusively; no run options are
        // given; every bound value is held.
        check(unsafe { (ort::api().RunWithBinding)(session.ptr_mut(), ptr::null(), self.raw.as_ptr()) })?;
        // SAFETY: as above.
        check(unsafe { (ort::api().SynchronizeBoundOutputs)(self.raw.as_ptr()) })
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: made by `CreateIoBinding` and released once.
        unsafe { (ort::api().ReleaseIoBinding)(self.raw.as_ptr()) }
    }
}

fn c_string(name: &str) -> Result<CString, TrainError> {
    CString::new(name).map_err(|_| TrainError::Runtime(format!("the name {name:?} holds a zero byte")))
}

fn check(status: ort::sys::OrtStatusPtr) -> Result<(), TrainError> {
    // SAFETY: the status comes from the call just made and is consumed here.
    unsafe { ort::Error::result_from_status(status) }.map_err(TrainError::from)
}
