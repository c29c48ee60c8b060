//! Calls that `ort` has no safe form for; the one place of this engine with `unsafe`.
//!
//! - [`mapped`] sees a tensor of the base's memory map as a value, without a copy. Its safe
//!   twin is `copied`, which tests compare it with.
//! - [`Binding`] binds values by reference. `ort`'s own binding copies every tensor that is
//!   bound as an input, which would copy a base for each task.

use std::ffi::{CString, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{Session, SharedSessionInner};
use ort::value::DynValue;
use ort::{AsPointer, Error};

use crate::base::{Base, BaseError};

/// A value, with the base that its memory belongs to, if it does not own it.
pub(super) struct Held {
    // Dropped before the memory that it may point to.
    value: DynValue,
    _memory: Option<Arc<Base>>,
}

impl Held {
    /// A value that owns its memory.
    pub(super) fn owned(value: DynValue) -> Self {
        Held { value, _memory: None }
    }

    /// The value; not to be kept for longer than this lives.
    pub(super) fn value(&self) -> &DynValue {
        &self.value
    }
}

/// A tensor of the base as a value that points into the memory map.
///
/// # Errors
/// Outside, when the base has no such tensor; inside, what ONNX Runtime reports.
pub(super) fn mapped(base: &Arc<Base>, name: &str) -> Result<Result<Held, Error>, BaseError> {
    let (shape, values) = base.tensor_f32(name)?;
    Ok(wrap(shape, values).map(|value| Held { value, _memory: Some(Arc::clone(base)) }))
}

/// The values stay where they are: the caller keeps them alive for as long as the result.
fn wrap(shape: &[usize], values: &[f32]) -> Result<DynValue, Error> {
    let dims: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
    let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUInput)?;
    let mut raw = ptr::null_mut();
    // SAFETY: pointer and length describe `values`, and the shape is that of the tensor (ONNX
    // Runtime checks it against the length). The memory is read-only; the value is only ever
    // bound as an input, which ONNX Runtime does not write to or reuse. It outlives the
    // value: see `mapped`, the only caller besides tests.
    let status = unsafe {
        (ort::api().CreateTensorWithDataAsOrtValue)(
            memory.ptr(),
            values.as_ptr().cast_mut().cast::<c_void>(),
            size_of_val(values),
            dims.as_ptr(),
            dims.len(),
            ort::sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
            &mut raw,
        )
    };
    check(status)?;
    let raw = NonNull::new(raw).ok_or_else(|| Error::new("no tensor was made"))?;
    // SAFETY: the pointer was just made and is given away here, once.
    Ok(unsafe { DynValue::from_ptr(raw, Some(&Allocator::default())) })
}

/// Inputs and outputs of a session, bound to values.
pub(super) struct Binding {
    raw: NonNull<ort::sys::OrtIoBinding>,
    /// What is bound stays alive as long as the binding.
    inputs: Vec<(String, Arc<Held>)>,
    outputs: Vec<(String, Arc<Held>)>,
    /// The binding refers to the session's inner state, even when it is released.
    session: Arc<SharedSessionInner>,
}

// SAFETY: a binding is a table of pointers without thread affinity, used through `&mut` only.
unsafe impl Send for Binding {}

impl Binding {
    pub(super) fn new(session: &Session) -> Result<Self, Error> {
        let mut raw = ptr::null_mut();
        // SAFETY: the session is alive (it is kept below), and the out-pointer is ours.
        check(unsafe { (ort::api().CreateIoBinding)(session.ptr().cast_mut(), &mut raw) })?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::new("no I/O binding was made"))?;
        Ok(Binding { raw, inputs: Vec::new(), outputs: Vec::new(), session: session.inner() })
    }

    /// Binds an input; an earlier value under that name is let go.
    pub(super) fn input(&mut self, name: &str, value: &Arc<Held>) -> Result<(), Error> {
        let c_name = c_string(name)?;
        // SAFETY: binding and value are alive; the value is held for as long as it is bound.
        check(unsafe { (ort::api().BindInput)(self.raw.as_ptr(), c_name.as_ptr(), value.value.ptr()) })?;
        hold(&mut self.inputs, name, value);
        Ok(())
    }

    /// Binds an output to a value of its type and shape, which every run overwrites.
    pub(super) fn output(&mut self, name: &str, value: &Arc<Held>) -> Result<(), Error> {
        let c_name = c_string(name)?;
        // SAFETY: as for inputs. The value owns memory of its shape (values of the map are never
        // bound as outputs), and ONNX Runtime refuses to write a result of another shape.
        check(unsafe { (ort::api().BindOutput)(self.raw.as_ptr(), c_name.as_ptr(), value.value.ptr()) })?;
        hold(&mut self.outputs, name, value);
        Ok(())
    }

    /// Runs the session that the binding was made for, and waits for the outputs.
    pub(super) fn run(&mut self, session: &mut Session) -> Result<(), Error> {
        if !ptr::eq(session.ptr(), self.session.ptr()) {
            return Err(Error::new("the binding belongs to another session"));
        }
        // SAFETY: session and binding belong together and are borrowed exclusively; no run
        // options are given; every bound value is held.
        check(unsafe { (ort::api().RunWithBinding)(session.ptr_mut(), ptr::null(), self.raw.as_ptr()) })?;
        // SAFETY: as above.
        check(unsafe { (ort::api().SynchronizeBoundOutputs)(self.raw.as_ptr()) })
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: made by `CreateIoBinding` and released once; its session is still alive.
        unsafe { (ort::api().ReleaseIoBinding)(self.raw.as_ptr()) }
    }
}

fn hold(held: &mut Vec<(String, Arc<Held>)>, name: &str, value: &Arc<Held>) {
    match held.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => *old = Arc::clone(value),
        None => held.push((name.to_owned(), Arc::clone(value))),
    }
}

fn c_string(name: &str) -> Result<CString, Error> {
    CString::new(name).map_err(|_| Error::new(format!("the name {name:?} holds a zero byte")))
}

fn check(status: ort::sys::OrtStatusPtr) -> Result<(), Error> {
    // SAFETY: the status comes from the call just made and is consumed here.
    unsafe { Error::result_from_status(status) }
}
