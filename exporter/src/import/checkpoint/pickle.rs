//! Reads the pickle in a file that `torch.save` wrote, without running it.
//!
//! A pickle is a program for a stack machine (Python's `pickletools` documents its instructions) that may call
//! whatever it names. This one knows the instructions that PyTorch writes for a dictionary of tensors, makes
//! descriptions of tensors where it would call `torch._utils._rebuild_tensor_v2`, and refuses all else: nothing is
//! imported, called or looked up.

use std::collections::HashMap;
use std::rc::Rc;

use safetensors::tensor::Dtype;

/// The longest pickle that is read: some hundred bytes a tensor.
const MAX_BYTES: usize = 64 << 20;

/// How deep values may lie in each other: a tensor's arguments in a dictionary have three.
const DEEPEST: u8 = 8;

/// A tensor, as the pickle describes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) storage: Storage,
    /// Where it starts in the storage, in elements.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// The values of one or more tensors, which lie in a file of their own.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Storage {
    pub(super) dtype: Dtype,
    /// Name of the file.
    pub(super) key: Rc<str>,
    /// How many elements there are.
    pub(super) count: usize,
}

/// What may stand on the stack.
#[derive(Debug, Clone)]
enum Value {
    None,
    Bool,
    Int(i64),
    Text(Rc<str>),
    Tuple(Rc<[Value]>, u8),
    Dict(Vec<(Value, Value)>, u8),
    Class(Class),
    Storage(Rc<Storage>),
    Tensor(Rc<Tensor>),
}

/// What a pickle of tensors names.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Class {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Class {
    fn named(module: &str, name: &str) -> Option<Class> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "FloatStorage") => Self::Storage(Dtype::F32),
            ("torch", "HalfStorage") => Self::Storage(Dtype::F16),
            ("torch", "BFloat16Storage") => Self::Storage(Dtype::BF16),
            ("torch", "DoubleStorage") => Self::Storage(Dtype::F64),
            ("torch", "LongStorage") => Self::Storage(Dtype::I64),
            ("torch", "IntStorage") => Self::Storage(Dtype::I32),
            ("torch", "ShortStorage") => Self::Storage(Dtype::I16),
            ("torch", "CharStorage") => Self::Storage(Dtype::I8),
            ("torch", "ByteStorage") => Self::Storage(Dtype::U8),
            ("torch", "BoolStorage") => Self::Storage(Dtype::BOOL),
            _ => return None,
        })
    }
}

impl Value {
    fn depth(&self) -> u8 {
        match self {
            Self::Tuple(_, depth) | Self::Dict(_, depth) => *depth,
            _ => 0,
        }
    }

    fn size(&self) -> Option<usize> {
        if let Self::Int(n) = self { usize::try_from(*n).ok() } else { None }
    }

    fn sizes(&self) -> Option<Vec<usize>> {
        if let Self::Tuple(all, _) = self { all.iter().map(Value::size).collect() } else { None }
    }
}

/// The tensors of a pickled dictionary by name, in its order.
///
/// # Errors
/// A reason in words: the pickle is broken, or holds anything but tensors by name.
pub(super) fn tensors(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("its pickle takes more than {} MiB", MAX_BYTES >> 20));
    }
    let mut machine = Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    let root = machine.run().map_err(|reason| format!("byte {} of its pickle: {reason}", machine.at))?;
    let Value::Dict(entries, _) = root else { return Err("it holds no dictionary of tensors".to_owned()) };
    let entry = |(name, value): (Value, Value)| match (name, value) {
        (Value::Text(name), Value::Tensor(tensor)) => Ok((name.to_string(), (*tensor).clone())),
        (Value::Text(name), _) => {
            Err(format!("`{name}` is no tensor: it holds more than weights; save `model.state_dict()` alone"))
        }
        _ => Err("its tensors have no names".to_owned()),
    };
    entries.into_iter().map(entry).collect()
}

struct Machine<'a> {
    bytes: &'a [u8],
    /// Where the next instruction is.
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value, String> {
        loop {
            let [instruction] = self.take::<1>()?;
            match instruction {
                // PROTO, which comes first: torch writes the second.
                0x80 => match self.take::<1>()? {
                    [2] => {}
                    [other] => return Err(format!("protocol {other}, not 2")),
                },
                b'.' => break,
                b'(' => self.marks.push(self.stack.len()),
                b'N' => self.push(Value::None),
                0x88 | 0x89 => self.push(Value::Bool),
                b'J' => {
                    let n = i32::from_le_bytes(self.take()?);
                    self.push(Value::Int(n.into()));
                }
                b'K' => {
                    let [n] = self.take()?;
                    self.push(Value::Int(n.into()));
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.take()?);
                    self.push(Value::Int(n.into()));
                }
                0x8a => self.long()?,
                b'X' => {
                    let length = u32::from_le_bytes(self.take()?);
                    let text = std::str::from_utf8(self.bytes_of(length as usize)?).map_err(|e| e.to_string())?;
                    self.stack.push(Value::Text(text.into()));
                }
                b')' => self.tuple(Vec::new())?,
                0x85..=0x87 => {
                    let first = self.stack.len().checked_sub(usize::from(instruction - 0x84)).ok_or(SHORT)?;
                    let values = self.above(first)?;
                    self.tuple(values)?;
                }
                b't' => {
                    let values = self.marked()?;
                    self.tuple(values)?;
                }
                b'}' => self.push(Value::Dict(Vec::new(), 1)),
                b's' => {
                    let first = self.stack.len().checked_sub(2).ok_or(SHORT)?;
                    let pairs = self.above(first)?;
                    self.set(pairs)?;
                }
                b'u' => {
                    let pairs = self.marked()?;
                    self.set(pairs)?;
                }
                b'q' | b'h' => {
                    let [key] = self.take()?;
                    self.remember(instruction == b'q', key.into())?;
                }
                b'r' | b'j' => {
                    let key = u32::from_le_bytes(self.take()?);
                    self.remember(instruction == b'r', key)?;
                }
                b'c' => self.class()?,
                b'Q' => self.storage()?,
                b'R' => self.call()?,
                // What is set on a dictionary besides its entries: versions of modules.
                b'b' => match (self.pop()?, self.stack.last()) {
                    (Value::Dict(..), Some(Value::Dict(..))) => {}
                    _ => return Err("sets what is no dictionary's".to_owned()),
                },
                other => return Err(format!("instruction {other:#04x} is none of a dictionary of tensors")),
            }
        }
        match (self.stack.pop(), self.stack.is_empty() && self.marks.is_empty(), self.at == self.bytes.len()) {
            (Some(root), true, true) => Ok(root),
            _ => Err("ends with more or less than one value".to_owned()),
        }
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(SHORT.to_owned());
        }
        self.stack.pop().ok_or_else(|| SHORT.to_owned())
    }

    fn bytes_of(&mut self, count: usize) -> Result<&'a [u8], String> {
        let whole: &'a [u8] = self.bytes;
        let bytes = self.at.checked_add(count).and_then(|end| whole.get(self.at..end)).ok_or("is cut off")?;
        self.at += count;
        Ok(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.bytes_of(N)?.try_into().map_err(|_| "is cut off".to_owned())
    }

    /// Takes what lies on the stack from a height on.
    fn above(&mut self, height: usize) -> Result<Vec<Value>, String> {
        if height < self.marks.last().copied().unwrap_or(0) || height > self.stack.len() {
            return Err(SHORT.to_owned());
        }
        Ok(self.stack.split_off(height))
    }

    fn marked(&mut self) -> Result<Vec<Value>, String> {
        let height = self.marks.pop().ok_or("has no mark")?;
        self.above(height)
    }

    /// A whole number of up to eight bytes.
    fn long(&mut self) -> Result<(), String> {
        let [length] = self.take()?;
        let bytes = self.bytes_of(length.into())?;
        let sign = if bytes.last().is_some_and(|b| *b >= 0x80) { 0xff } else { 0 };
        let mut whole = [sign; 8];
        whole.get_mut(..bytes.len()).ok_or("a number is too large")?.copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(whole)));
        Ok(())
    }

    fn tuple(&mut self, values: Vec<Value>) -> Result<(), String> {
        let depth = deeper(&values)?;
        self.push(Value::Tuple(values.into(), depth));
        Ok(())
    }

    /// Sets keys and values, which take turns, on the dictionary that is next on the stack.
    fn set(&mut self, pairs: Vec<Value>) -> Result<(), String> {
        let depth = deeper(&pairs)?;
        let Some(Value::Dict(entries, own)) = self.stack.last_mut() else {
            return Err("sets an entry of what is no dictionary".to_owned());
        };
        *own = depth.max(*own);
        let mut pairs = pairs.into_iter();
        while let Some(key) = pairs.next() {
            entries.push((key, pairs.next().ok_or("a key has no value")?));
        }
        Ok(())
    }

    /// Puts the top of the stack into a slot, or what is in one on the stack.
    fn remember(&mut self, put: bool, slot: u32) -> Result<(), String> {
        if put {
            // A dictionary that gets its entries later: nothing refers to it again.
            let value = match self.stack.last().ok_or(SHORT)? {
                Value::Dict(..) => return Ok(()),
                value => value.clone(),
            };
            self.memo.insert(slot, value);
        } else {
            let value = self.memo.get(&slot).ok_or("refers to what is not there, or to a dictionary")?;
            self.stack.push(value.clone());
        }
        Ok(())
    }

    fn class(&mut self) -> Result<(), String> {
        let mut line = || {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let length = rest.iter().position(|b| *b == b'\n').ok_or("is cut off")?;
            self.at += length + 1;
            std::str::from_utf8(&rest[..length]).map_err(|e| e.to_string())
        };
        let (module, name) = (line()?, line()?);
        let class = Class::named(module, name)
            .ok_or_else(|| format!("`{module}.{name}` is none of what a dictionary of tensors needs"))?;
        self.push(Value::Class(class));
        Ok(())
    }

    /// ('storage', class, key, device, count) stands for the values in the file `key`.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let Value::Tuple(id, _) = &id else { return Err("an identity is no tuple".to_owned()) };
        match &id[..] {
            [Value::Text(kind), Value::Class(Class::Storage(dtype)), Value::Text(key), Value::Text(_), count]
                if &**kind == "storage" =>
            {
                let count = count.size().ok_or("a storage has no length")?;
                self.push(Value::Storage(Rc::new(Storage { dtype: *dtype, key: key.clone(), count })));
                Ok(())
            }
            _ => Err("refers to something else than a storage".to_owned()),
        }
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let (Value::Tuple(arguments, _), Value::Class(class)) = (&arguments, &class) else {
            return Err("calls what is no function".to_owned());
        };
        let value = match (class, &arguments[..]) {
            (Class::OrderedDict, []) => Value::Dict(Vec::new(), 1),
            (Class::RebuildParameter, [Value::Tensor(tensor), ..]) => Value::Tensor(tensor.clone()),
            (Class::RebuildTensor, [Value::Storage(storage), offset, shape, strides, ..]) => {
                let parts = (offset.size(), shape.sizes(), strides.sizes());
                let (Some(offset), Some(shape), Some(strides)) = parts else {
                    return Err("a tensor has no shape".to_owned());
                };
                Value::Tensor(Rc::new(Tensor { storage: (**storage).clone(), offset, shape, strides }))
            }
            _ => return Err(format!("calls {class:?} with other arguments than torch writes")),
        };
        self.push(value);
        Ok(())
    }
}

/// What an instruction finds that takes more than there is.
const SHORT: &str = "takes more values than there are";

/// The depth of what holds these values.
fn deeper(values: &[Value]) -> Result<u8, String> {
    let most = values.iter().map(Value::depth).max().unwrap_or(0);
    if most < DEEPEST { Ok(most + 1) } else { Err("values lie in each other too deep".to_owned()) }
}
