//! The messages of the ONNX format.
//!
//! Field numbers and names follow `onnx.proto` of ONNX 1.23 ([`IR_VERSION`]). Every field is
//! here: one that was not would be lost when a model is read and written again. Enumerations
//! are plain integers, and messages that no encoder needs are bytes, as the wire holds them.

use prost::Message;

/// The newest version of the format whose fields are all known here.
pub const IR_VERSION: i64 = 14;

/// Element types ([`TensorProto::data_type`]).
pub mod data_type {
    /// 32-bit IEEE float.
    pub const FLOAT: i32 = 1;
    /// 32-bit integer.
    pub const INT32: i32 = 6;
    /// 64-bit integer.
    pub const INT64: i32 = 7;
    /// Boolean, one byte each.
    pub const BOOL: i32 = 9;
    /// 16-bit IEEE float.
    pub const FLOAT16: i32 = 10;
    /// 16-bit float with the exponent of f32.
    pub const BFLOAT16: i32 = 16;
    /// 8-bit integers with a sign.
    pub const INT8: i32 = 3;
    /// 8-bit integers without one.
    pub const UINT8: i32 = 2;
    /// 16-bit integers with a sign.
    pub const INT16: i32 = 5;
    /// 16-bit integers without one.
    pub const UINT16: i32 = 4;
}

/// [`TensorProto::data_location`]: the bytes are in a file beside the model.
pub const DATA_LOCATION_EXTERNAL: i32 = 1;

/// Attribute types ([`AttributeProto::type`](AttributeProto)).
pub mod attribute_type {
    /// One float.
    pub const FLOAT: i32 = 1;
    /// One integer.
    pub const INT: i32 = 2;
    /// A string.
    pub const STRING: i32 = 3;
    /// Integers.
    pub const INTS: i32 = 7;
}

/// A model: a graph and the operator sets that it needs.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the format.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// The program that wrote it.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// Whose model it is.
    #[prost(string, tag = "4")]
    pub domain: String,
    /// The model's own version.
    #[prost(int64, tag = "5")]
    pub model_version: i64,
    /// A text for people.
    #[prost(string, tag = "6")]
    pub doc_string: String,
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Notes.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
    /// How to train it.
    #[prost(bytes = "vec", repeated, tag = "20")]
    pub training_info: Vec<Vec<u8>>,
    /// Operators of its own.
    #[prost(bytes = "vec", repeated, tag = "25")]
    pub functions: Vec<Vec<u8>>,
    /// Devices that it is laid out for.
    #[prost(bytes = "vec", repeated, tag = "26")]
    pub configuration: Vec<Vec<u8>>,
}

/// An operator set: domain ("" is ONNX's own) and version.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Domain.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// Nodes in topological order, with their constants, inputs and outputs.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// Nodes.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Constants.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// A text for people.
    #[prost(string, tag = "10")]
    pub doc_string: String,
    /// Inputs.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// Outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// Known types of inner values.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
    /// How values were quantised.
    #[prost(bytes = "vec", repeated, tag = "14")]
    pub quantization_annotation: Vec<Vec<u8>>,
    /// Constants that are mostly zeros.
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub sparse_initializer: Vec<Vec<u8>>,
    /// Notes.
    #[prost(message, repeated, tag = "16")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// One operation.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of values; "" leaves an optional input out.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of values.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Name of the node.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// A text for people.
    #[prost(string, tag = "6")]
    pub doc_string: String,
    /// Domain of the operator.
    #[prost(string, tag = "7")]
    pub domain: String,
    /// Which of several functions of the operator's name.
    #[prost(string, tag = "8")]
    pub overload: String,
    /// Notes.
    #[prost(message, repeated, tag = "9")]
    pub metadata_props: Vec<StringStringEntryProto>,
    /// Devices that it is laid out for.
    #[prost(bytes = "vec", repeated, tag = "10")]
    pub device_configurations: Vec<Vec<u8>>,
}

impl NodeProto {
    /// The attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute.iter().find(|a| a.name == name)
    }

    /// An integer attribute, or what the operator takes without it.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |a| a.i)
    }

    /// A float attribute, or what the operator takes without it.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |a| a.f)
    }
}

/// A constant of a node.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Float value.
    #[prost(float, tag = "2")]
    pub f: f32,
    /// Integer value.
    #[prost(int64, tag = "3")]
    pub i: i64,
    /// String value.
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    /// Tensor value.
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    /// Graph value.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub g: Option<Vec<u8>>,
    /// Float values.
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    /// Integer values.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// String values.
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub strings: Vec<Vec<u8>>,
    /// Tensor values.
    #[prost(message, repeated, tag = "10")]
    pub tensors: Vec<TensorProto>,
    /// Graph values.
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub graphs: Vec<Vec<u8>>,
    /// A text for people.
    #[prost(string, tag = "13")]
    pub doc_string: String,
    /// Type value.
    #[prost(message, optional, tag = "14")]
    pub tp: Option<TypeProto>,
    /// Type values.
    #[prost(message, repeated, tag = "15")]
    pub type_protos: Vec<TypeProto>,
    /// Which of them holds, see [`attribute_type`].
    #[prost(int32, tag = "20")]
    pub r#type: i32,
    /// The attribute of the function around the node that holds the value.
    #[prost(string, tag = "21")]
    pub ref_attr_name: String,
    /// Sparse tensor value.
    #[prost(bytes = "vec", optional, tag = "22")]
    pub sparse_tensor: Option<Vec<u8>>,
    /// Sparse tensor values.
    #[prost(bytes = "vec", repeated, tag = "23")]
    pub sparse_tensors: Vec<Vec<u8>>,
}

macro_rules! attribute_from {
    ($from:ty, $type:ident, $field:ident) => {
        impl From<$from> for AttributeProto {
            fn from($field: $from) -> Self {
                AttributeProto { $field, r#type: attribute_type::$type, ..Default::default() }
            }
        }
    };
}
attribute_from!(i64, INT, i);
attribute_from!(f32, FLOAT, f);
attribute_from!(Vec<i64>, INTS, ints);

impl From<&str> for AttributeProto {
    fn from(text: &str) -> Self {
        AttributeProto { s: text.into(), r#type: attribute_type::STRING, ..Default::default() }
    }
}

/// A constant tensor, row-major, little-endian.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Shape.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// See [`data_type`].
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Which part of a larger tensor it is.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub segment: Option<Vec<u8>>,
    /// Values, when they are not in `raw_data`.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// Values of the smaller integer types, when they are not in `raw_data`.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// Values that are strings.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub string_data: Vec<Vec<u8>>,
    /// Values, when they are not in `raw_data`.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Values as bytes.
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
    /// Values, when they are not in `raw_data`.
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// Values, when they are not in `raw_data`.
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    /// A text for people.
    #[prost(string, tag = "12")]
    pub doc_string: String,
    /// Where the values are when they are outside: location, offset, length.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// 0: here, 1: outside.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
    /// Notes.
    #[prost(message, repeated, tag = "16")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// A key and a value.
#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A named value with its type.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
    /// A text for people.
    #[prost(string, tag = "3")]
    pub doc_string: String,
    /// Notes.
    #[prost(message, repeated, tag = "4")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

impl ValueInfoProto {
    /// A tensor value of known shape.
    pub fn fixed(name: &str, data_type: i32, shape: &[i64]) -> Self {
        Self::tensor(name, data_type, shape.iter().map(|d| Dimension::Value(*d)))
    }

    /// A tensor value; a dimension that is not a number is symbolic.
    pub fn symbolic(name: &str, data_type: i32, shape: &[&str]) -> Self {
        Self::tensor(
            name,
            data_type,
            shape.iter().map(|d| d.parse().map_or_else(|_| Dimension::Param((*d).to_owned()), Dimension::Value)),
        )
    }

    fn tensor(name: &str, elem_type: i32, shape: impl Iterator<Item = Dimension>) -> Self {
        let dim = shape.map(|d| TensorShapeDimension { value: Some(d), ..Default::default() }).collect();
        let tensor_type = Some(TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim }) });
        let r#type = Some(TypeProto { tensor_type, ..Default::default() });
        ValueInfoProto { name: name.to_owned(), r#type, ..Default::default() }
    }
}

/// The type of a value: one of these.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// A tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
    /// A sequence.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub sequence_type: Option<Vec<u8>>,
    /// A map.
    #[prost(bytes = "vec", optional, tag = "5")]
    pub map_type: Option<Vec<u8>>,
    /// What the value stands for.
    #[prost(string, tag = "6")]
    pub denotation: String,
    /// Something else.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub opaque_type: Option<Vec<u8>>,
    /// A sparse tensor.
    #[prost(bytes = "vec", optional, tag = "8")]
    pub sparse_tensor_type: Option<Vec<u8>>,
    /// A value or none.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub optional_type: Option<Vec<u8>>,
}

/// Element type and shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// See [`data_type`].
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Shape.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// Dimensions.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<TensorShapeDimension>,
}

/// One dimension.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeDimension {
    /// Its size or its name.
    #[prost(oneof = "Dimension", tags = "1, 2")]
    pub value: Option<Dimension>,
    /// What the dimension stands for.
    #[prost(string, tag = "3")]
    pub denotation: String,
}

/// A dimension's size, or the name that all equal dimensions share.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Dimension {
    /// Size.
    #[prost(int64, tag = "1")]
    Value(i64),
    /// Name.
    #[prost(string, tag = "2")]
    Param(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field as the wire holds it: its number and kind, then a value that is not the default.
    fn field(number: u32, kind: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(u64::from(number << 3 | kind), &mut bytes);
        bytes.extend_from_slice(match kind {
            VARINT => &[1],
            FIXED32 => &[0, 0, 128, 63],
            // Eight bytes: a packed list of any numbers, and a text.
            _ => b"\x08~~~~~~~~",
        });
        bytes
    }

    const VARINT: u32 = 0;
    const LENGTH: u32 = 2;
    const FIXED32: u32 = 5;

    /// Reads each field alone and writes it again.
    fn survive<M: Message + Default>(fields: &[(u32, u32)], messages: &[u32]) {
        for (number, kind) in fields {
            let bytes = field(*number, *kind);
            let again = M::decode(bytes.as_slice()).unwrap_or_else(|e| panic!("{number}: {e}")).encode_to_vec();
            assert_eq!(again, bytes, "field {number}");
        }
        // Messages of this file: an empty one is there, too.
        for number in messages {
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(u64::from(number << 3 | LENGTH), &mut bytes);
            bytes.push(0);
            assert_eq!(M::decode(bytes.as_slice()).unwrap().encode_to_vec(), bytes, "message {number}");
        }
    }

    /// The fields of ONNX 1.23, as its own description of the messages lists them.
    #[test]
    fn no_field_is_lost() {
        let of = |kind: u32, numbers: &[u32]| numbers.iter().map(|n| (*n, kind)).collect::<Vec<_>>();
        let both = |a: Vec<_>, b: Vec<_>| [a, b].concat();
        survive::<ModelProto>(&both(of(VARINT, &[1, 5]), of(LENGTH, &[2, 3, 4, 6, 20, 25, 26])), &[7, 8, 14]);
        survive::<OperatorSetIdProto>(&both(of(VARINT, &[2]), of(LENGTH, &[1])), &[]);
        survive::<GraphProto>(&of(LENGTH, &[2, 10, 14, 15]), &[1, 5, 11, 12, 13, 16]);
        survive::<NodeProto>(&of(LENGTH, &[1, 2, 3, 4, 6, 7, 8, 10]), &[5, 9]);
        let values = both(of(FIXED32, &[2, 7]), of(VARINT, &[3, 8, 20]));
        survive::<AttributeProto>(&both(values, of(LENGTH, &[1, 4, 6, 9, 11, 13, 21, 22, 23])), &[5, 10, 14, 15]);
        let packed = of(LENGTH, &[4, 5, 7, 10, 11]);
        survive::<TensorProto>(&both(both(of(VARINT, &[1, 2, 14]), packed), of(LENGTH, &[3, 6, 8, 9, 12])), &[13, 16]);
        survive::<StringStringEntryProto>(&of(LENGTH, &[1, 2]), &[]);
        survive::<ValueInfoProto>(&of(LENGTH, &[1, 3]), &[2, 4]);
        survive::<TypeProto>(&of(LENGTH, &[4, 5, 6, 7, 8, 9]), &[1]);
        survive::<TensorTypeProto>(&of(VARINT, &[1]), &[2]);
        survive::<TensorShapeProto>(&[], &[1]);
        survive::<TensorShapeDimension>(&both(of(VARINT, &[1]), of(LENGTH, &[2, 3])), &[]);
    }
}
