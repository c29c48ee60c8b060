//! Tasks of two texts, and the bases that can tell these apart.

use super::fixture;
use crate::data::Form;
use crate::import::{hf, onnx};
use crate::train::{Method, TrainOptions};

#[test]
fn pairs_need_a_base_that_tells_their_texts_apart() {
    let dir = tempfile::tempdir().unwrap();
    let options = TrainOptions { form: Form { pair: true, ..Form::CLASSIFY }, ..TrainOptions::new("x", Method::Head) };
    for (name, refused) in [("bert-torchscript.onnx", false), ("roberta-dynamo.onnx", true)] {
        let tokenizer = fixture().join("tokenizer.json");
        let import =
            onnx::Options { tokenizer, output: None, max_positions: None, config: None, origin: hf::Origin::default() };
        let model = fixture().join("../onnx").join(name);
        let base = onnx::import(&model, &dir.path().join(name), &import).unwrap().base;
        let checked =
            TrainOptions { max_tokens: 16, ..options.clone() }.check(&base).map_err(|error| error.to_string());
        let said = "form.pair: the tokenizer gives second texts the segment 1, and this base has segments up to 0";
        assert_eq!(checked.is_err_and(|error| error.starts_with(said)), refused, "{name}");
    }
}
