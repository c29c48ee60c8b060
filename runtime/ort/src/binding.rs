//! Calls that `ort` has no safe form for: with `about.rs`, the places with `unsafe` around ONNX Runtime.
//!
//! - [`Bound::mapped`] sees a tensor of the base's memory map as a value, without a copy. Tests
//!   compare it with its safe twin, which copies.
//! - [`Binding`] binds values by reference. `ort`'s own binding copies every tensor that is
//!   bound as an input, which would copy a base for each task, and training's state each step.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{CString, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, RwLock};

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{Session, SharedSessionInner};
use ort::value::{DynValue, Tensor, TensorValueType};
use ort::{AsPointer, Error};
use overmask::base::Base;
use overmask::engine::{Device, EngineError};

use super::failed;

/// A value that can be bound, with the base that its memory belongs to, if it does not own it.
///
/// One value may be bound in several places, to be written by one run and read by the next. A
/// run holds the locks of all that it reads and writes; so that no order of locks can block two
/// runs for ever, a run or a copy that would have to wait is refused.
pub struct Bound {
    // Dropped before the memory that it may point to. It never leaves; its memory is lent while the
    // lock is held, as runs write to it.
    value: RwLock<DynValue>,
    mapped: Option<Arc<Base>>,
}

impl Bound {
    /// A value that owns its memory.
    pub fn owned(value: DynValue) -> Self {
        Bound { value: RwLock::new(value), mapped: None }
    }

    /// A tensor of the base as a value that points into the memory map. It is read-only: an
    /// input, never an output.
    ///
    /// # Errors
    /// When the base has no such tensor, or what ONNX Runtime reports.
    pub fn mapped(base: &Arc<Base>, name: &str) -> Result<Bound, EngineError> {
        let (shape, values) = base.tensor_f32(name)?;
        let value = wrap(shape, values).map_err(|e| failed(Device::Cpu, e))?;
        Ok(Bound { value: RwLock::new(value), mapped: Some(Arc::clone(base)) })
    }

    /// A tensor of the base, whatever it is stored as: [`Bound::mapped`] where that is f32, else widened.
    ///
    /// # Errors
    /// The same.
    pub fn of_base(base: &Arc<Base>, name: &str) -> Result<Bound, EngineError> {
        let (shape, values) = base.values(name)?;
        match values {
            Cow::Borrowed(_) => Bound::mapped(base, name),
            Cow::Owned(values) => {
                let value = Tensor::from_array((shape.to_vec(), values)).map_err(|e| failed(Device::Cpu, e))?;
                Ok(Bound::owned(value.into_dyn()))
            }
        }
    }

    /// A copy of the values of an f32 tensor, from whatever device.
    ///
    /// # Errors
    /// When it is no f32 tensor, a run writes to it, or what ONNX Runtime reports.
    pub fn download(&self) -> Result<Vec<f32>, Error> {
        let value = self.value.try_read().map_err(|_| in_use("a value"))?;
        let tensor = value.view().downcast::<TensorValueType<f32>>()?;
        if tensor.memory_info().is_cpu_accessible() {
            return Ok(tensor.extract_tensor().1.to_vec());
        }
        let host = tensor.to(AllocationDevice::CPU, 0)?;
        Ok(host.extract_tensor().1.to_vec())
    }

    /// Hands on the values of an f32 tensor in the CPU's memory, without a copy.
    ///
    /// # Errors
    /// When it is no such tensor, or a run writes to it.
    pub fn with<R>(&self, read: impl FnOnce(&[f32]) -> R) -> Result<R, Error> {
        let value = self.value.try_read().map_err(|_| in_use("a value"))?;
        Ok(read(value.try_extract_tensor()?.1))
    }

    /// The same, to change them.
    ///
    /// # Errors
    /// When it is no such tensor or the base's, or a run uses it.
    pub fn with_mut<R>(&self, change: impl FnOnce(&mut [f32]) -> R) -> Result<R, Error> {
        if self.mapped.is_some() {
            return Err(Error::new("a tensor of the base cannot be written"));
        }
        let mut value = self.value.try_write().map_err(|_| in_use("a value"))?;
        Ok(change(value.try_extract_tensor_mut()?.1))
    }
}
fn in_use(what: &str) -> Error {
    Error::new(format!("{what} is in use: by another run, or bound here twice"))
}

/// The values stay where they are: the caller keeps them alive for as long as the result.
fn wrap(shape: &[usize], values: &[f32]) -> Result<DynValue, Error> {
    let dims: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
    let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUInput)?;
    let mut raw = ptr::null_mut();
    // SAFETY: pointer and length describe `values`, and the shape is that of the tensor (ONNX
    // Runtime checks it against the length). The memory is read-only; the value is only ever
    // bound as an input, which ONNX Runtime does not write to or reuse. It outlives the
    // value: see `Bound::mapped`, the only caller besides tests.
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
pub struct Binding {
    raw: NonNull<ort::sys::OrtIoBinding>,
    /// What is bound stays alive as long as the binding.
    inputs: Vec<(String, Arc<Bound>)>,
    outputs: Vec<(String, Arc<Bound>)>,
    /// The binding refers to the session's inner state, even when it is released.
    session: Arc<SharedSessionInner>,
}

// SAFETY: a binding is a table of pointers without thread affinity, used through `&mut` only.
unsafe impl Send for Binding {}

impl Binding {
    /// An empty binding for a session.
    ///
    /// # Errors
    /// What ONNX Runtime reports.
    pub fn new(session: &Session) -> Result<Self, Error> {
        let mut raw = ptr::null_mut();
        // SAFETY: the session is alive (it is kept below), and the out-pointer is ours.
        check(unsafe { (ort::api().CreateIoBinding)(session.ptr().cast_mut(), &mut raw) })?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::new("no I/O binding was made"))?;
        Ok(Binding { raw, inputs: Vec::new(), outputs: Vec::new(), session: session.inner() })
    }

    /// Binds an input; an earlier value under that name is let go. On a GPU, a value of the
    /// CPU's memory is copied there now, once.
    ///
    /// # Errors
    /// When the session has no such input, or what ONNX Runtime reports.
    pub fn input(&mut self, name: &str, value: &Arc<Bound>) -> Result<(), Error> {
        let c_name = c_string(name)?;
        // The copy to a GPU reads it.
        let locked = value.value.try_read().map_err(|_| in_use(&format!("input `{name}`")))?;
        // SAFETY: binding and value are alive; the value is held for as long as it is bound.
        check(unsafe { (ort::api().BindInput)(self.raw.as_ptr(), c_name.as_ptr(), locked.ptr()) })?;
        hold(&mut self.inputs, name, value);
        Ok(())
    }

    /// Binds an output to a value of its type and shape, which every run overwrites.
    ///
    /// # Errors
    /// When the session has no such output, the value is of the base's memory map, or what ONNX
    /// Runtime reports.
    pub fn output(&mut self, name: &str, value: &Arc<Bound>) -> Result<(), Error> {
        if value.mapped.is_some() {
            return Err(Error::new(format!("output `{name}`: a tensor of the base cannot be written")));
        }
        let c_name = c_string(name)?;
        let locked = value.value.try_read().map_err(|_| in_use(&format!("output `{name}`")))?;
        // SAFETY: as for inputs. The value owns memory of its shape, and ONNX Runtime refuses to
        // write a result of another shape.
        check(unsafe { (ort::api().BindOutput)(self.raw.as_ptr(), c_name.as_ptr(), locked.ptr()) })?;
        hold(&mut self.outputs, name, value);
        Ok(())
    }

    /// Runs the session that the binding was made for, and waits for the outputs.
    ///
    /// # Errors
    /// When it is another session, another run or a copy uses a value that this one writes, or
    /// the run fails.
    pub fn run(&mut self, session: &mut Session) -> Result<(), Error> {
        if !ptr::eq(session.ptr(), self.session.ptr()) {
            return Err(Error::new("the binding belongs to another session"));
        }
        let mut read = Vec::with_capacity(self.inputs.len());
        for (name, value) in &self.inputs {
            read.push(value.value.try_read().map_err(|_| in_use(&format!("input `{name}`")))?);
        }
        let mut written = Vec::with_capacity(self.outputs.len());
        for (name, value) in &self.outputs {
            written.push(value.value.try_write().map_err(|_| in_use(&format!("output `{name}`")))?);
        }
        // SAFETY: session and binding belong together and are borrowed exclusively; no run
        // options are given; every bound value is held, and locked until the run is over.
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

fn hold(held: &mut Vec<(String, Arc<Bound>)>, name: &str, value: &Arc<Bound>) {
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

#[cfg(test)]
mod tests {
    use ort::value::Tensor;
    use overmask::base::family::Family;
    use overmask::base::{
        Architecture, BaseManifest, FORMAT, GraphHints, MaskableTensor, Precision, file, write_weights,
    };
    use overmask::engine::EngineOptions;
    use overmask::mask::{Granularity, Mask};

    use super::*;
    use crate::masking::Masker;

    const SHAPE: [usize; 2] = [37, 11];

    /// A base with the maskable tensor `w`, [3, 4], of the values 0 to 11.
    fn base(dir: &std::path::Path) -> Arc<Base> {
        let bytes: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let mut weights = Vec::new();
        write_weights(&mut weights, &[("w", &[3, 4], &bytes)]).unwrap();
        std::fs::write(dir.join(file::WEIGHTS), weights).unwrap();
        let digests = [file::MODEL, file::WEIGHTS, file::TOKENIZER].map(|name| (name.to_owned(), "1".repeat(64)));
        let family = Family::Onnx(GraphHints::default());
        let manifest = BaseManifest {
            format: FORMAT,
            base_id: "0".repeat(64),
            architecture: Architecture { family, hidden_size: 4, layers: 1, vocab_size: 10, max_positions: 16 },
            maskable: vec![MaskableTensor { name: "w".into(), outputs: 3, inputs: 4, layer: 0 }],
            variant: Precision::F32,
            digests: digests.into(),
            tokenizer_sha256: "1".repeat(64),
            pooling: None,
            max_tokens: None,
            licence: "none".into(),
            source: "test".into(),
        };
        std::fs::write(dir.join(file::MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
        Arc::new(Base::open(dir).unwrap())
    }

    fn weights() -> Vec<f32> {
        (0..SHAPE[0] * SHAPE[1]).map(|i| (i as f32).sin()).collect()
    }

    /// The safe twin of [`wrap`].
    fn copied(shape: &[usize], values: &[f32]) -> DynValue {
        Tensor::from_array((shape.to_vec(), values.to_vec())).unwrap().into_dyn()
    }

    fn masker() -> Masker {
        let options = EngineOptions::default().threads(1);
        Masker::new(Device::Cpu, &options).unwrap_or_else(|e| panic!("{e}\n`cargo xtask test` sets everything up"))
    }

    fn values(held: &Bound) -> Vec<f32> {
        held.download().unwrap()
    }

    #[test]
    fn a_wrapped_tensor_is_what_its_copied_twin_is() {
        let mut masker = masker();
        let weights = weights();
        let wrapped = Arc::new(Bound::owned(wrap(&SHAPE, &weights).unwrap()));
        let copied = Arc::new(Bound::owned(copied(&SHAPE, &weights)));
        assert_eq!(wrapped.value.read().unwrap().dtype(), copied.value.read().unwrap().dtype());
        assert_eq!(values(&wrapped), weights);
        for granularity in [Granularity::Weight, Granularity::Block { rows: 4, cols: 3 }] {
            let all = Mask::keep_all(granularity, SHAPE[0], SHAPE[1]).unwrap();
            let keep = (0..all.unit_bits().len()).map(|i| i % 3 != 0);
            let mask = Mask::from_units(granularity, SHAPE[0], SHAPE[1], keep).unwrap();
            let mut expected = weights.clone();
            mask.apply(&mut expected).unwrap();
            assert_eq!(values(&masker.apply(&mask, &wrapped).unwrap()), expected);
            assert_eq!(values(&masker.apply(&mask, &copied).unwrap()), expected);
        }
        // No run wrote to what was only lent.
        assert_eq!(weights, self::weights());
    }

    #[test]
    fn a_shape_that_does_not_fit_the_memory_is_an_error() {
        masker();
        assert!(wrap(&[SHAPE[0], SHAPE[1] + 1], &weights()).is_err());
    }

    #[test]
    fn a_binding_refuses_another_session_and_wrong_shapes() {
        let mut masker = masker();
        let mut other = self::masker();
        let weight = Arc::new(Bound::owned(copied(&SHAPE, &weights())));
        let mut binding = Binding::new(masker.session()).unwrap();
        binding.input("weight", &weight).unwrap();
        let keep = Tensor::from_array((SHAPE, vec![true; SHAPE[0] * SHAPE[1]])).unwrap().into_dyn();
        binding.input("keep", &Arc::new(Bound::owned(keep))).unwrap();
        binding.output("masked", &Arc::new(Bound::owned(copied(&[3, 3], &[0.0; 9])))).unwrap();
        assert!(binding.run(other.session()).unwrap_err().to_string().contains("another session"));
        assert!(binding.run(masker.session()).is_err(), "the output is too small");
        let out = Arc::new(Bound::owned(copied(&SHAPE, &[0.0; SHAPE[0] * SHAPE[1]])));
        binding.output("masked", &out).unwrap();
        binding.run(masker.session()).unwrap();
        assert_eq!(values(&out), weights());
        assert!(binding.input("no\0name", &weight).is_err());
    }

    #[test]
    fn a_value_is_not_read_while_it_is_written() {
        let mut masker = masker();
        let mut other = self::masker();
        let keep = |masker: &mut Masker, weight: &Arc<Bound>, masked: &Arc<Bound>| {
            let mut binding = Binding::new(masker.session()).unwrap();
            let keep = Tensor::from_array((SHAPE, vec![true; SHAPE[0] * SHAPE[1]])).unwrap().into_dyn();
            binding.input("keep", &Arc::new(Bound::owned(keep))).unwrap();
            binding.input("weight", weight).unwrap();
            binding.output("masked", masked).unwrap();
            binding
        };
        let [a, b] = [0.0, 1.0].map(|v| Arc::new(Bound::owned(copied(&SHAPE, &[v; SHAPE[0] * SHAPE[1]]))));
        let mut there = keep(&mut masker, &a, &b);
        let mut back = keep(&mut other, &b, &a);
        let mut aside = keep(&mut masker, &a, &a);
        assert!(aside.run(masker.session()).unwrap_err().to_string().contains("`masked` is in use"));
        {
            // As a run holds them.
            let _read = a.value.read().unwrap();
            let _written = b.value.write().unwrap();
            assert!(there.run(masker.session()).unwrap_err().to_string().contains("`masked` is in use"));
            assert!(back.run(other.session()).unwrap_err().to_string().contains("`weight` is in use"));
            assert!(there.input("weight", &b).is_err() && back.output("masked", &b).is_err() && b.download().is_err());
            assert_eq!(a.download().unwrap()[0], 0.0);
        }
        there.run(masker.session()).unwrap();
        back.run(other.session()).unwrap();
        assert_eq!(values(&b), [0.0; SHAPE[0] * SHAPE[1]]);
    }

    #[test]
    fn only_f32_is_downloaded() {
        masker();
        let whole = Tensor::from_array(([2], vec![1i64, 2])).unwrap().into_dyn();
        let whole = Bound::owned(whole);
        assert!(whole.download().is_err() && whole.with(|_| ()).is_err() && whole.with_mut(|_| ()).is_err());
        let changed = Bound::owned(copied(&[2], &[1.0, 2.0]));
        changed.with_mut(|values| values[1] = 5.0).unwrap();
        assert_eq!(
            (changed.with(<[f32]>::to_vec).unwrap(), changed.download().unwrap()),
            (vec![1.0, 5.0], vec![1.0, 5.0])
        );
        let scalar = Tensor::from_array(([0usize; 0], vec![2.5f32])).unwrap().into_dyn();
        assert_eq!(Bound::owned(scalar).download().unwrap(), [2.5]);
    }

    #[test]
    fn a_tensor_of_the_base_is_read_and_never_written() {
        let mut masker = masker();
        let dir = tempfile::tempdir().unwrap();
        let base = base(dir.path());
        assert!(Bound::mapped(&base, "nothing").is_err());
        let weight = Arc::new(Bound::mapped(&base, "w").unwrap());
        let mask = Mask::from_units(Granularity::Weight, 3, 4, (0..12).map(|i| i % 2 == 1)).unwrap();
        let expected: Vec<f32> = (0..12).map(|i| if i % 2 == 1 { i as f32 } else { 0.0 }).collect();
        assert_eq!(values(&masker.apply(&mask, &weight).unwrap()), expected);
        assert_eq!(weight.with(|values| values[1]).unwrap(), 1.0);
        assert!(weight.with_mut(|_| panic!("it is a map")).is_err());
        let mut binding = Binding::new(masker.session()).unwrap();
        let refused = binding.output("masked", &weight).unwrap_err();
        assert!(refused.to_string().contains("cannot be written"), "{refused}");
    }
}
