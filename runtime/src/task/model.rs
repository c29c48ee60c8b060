//! The model of a tokenizer: the library's, or our own where the library takes long to read it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::unigram::UnigramTrainer;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PaddingParams, PostProcessorWrapper,
    PreTokenizerWrapper, Result, Token, TokenizerBuilder, TokenizerImpl, TruncationParams,
};

use super::unigram::Unigram;

/// A tokenizer of the library, with a model of its own or of ours.
pub(super) type Whole =
    TokenizerImpl<Model, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// What makes tokens of the parts of a text.
#[derive(Debug, Clone)]
pub(super) enum Model {
    /// As the library has it.
    Library(Box<ModelWrapper>),
    /// With pieces that lie as they are used.
    Unigram(Unigram),
}

/// All of a `tokenizer.json` but its model, read as the library reads it.
#[derive(Deserialize)]
struct Settings {
    version: Option<String>,
    truncation: Option<TruncationParams>,
    padding: Option<PaddingParams>,
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
}

/// A token beside the model's. Its number is the model's, or the next one that is free.
#[derive(Deserialize)]
struct Added {
    #[serde(rename = "id")]
    _id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

impl Model {
    /// The tokenizer with our model.
    pub(super) fn whole(unigram: Unigram) -> Result<Whole> {
        let settings: Settings = serde_json::from_slice(unigram.settings())?;
        if let Some(version) = settings.version.filter(|version| version != "1.0") {
            return Err(format!("Unknown tokenizer version '{version}'").into());
        }
        let mut whole = TokenizerBuilder::new()
            .with_model(Model::Unigram(unigram))
            .with_truncation(settings.truncation)
            .with_padding(settings.padding)
            .with_normalizer(settings.normalizer)
            .with_pre_tokenizer(settings.pre_tokenizer)
            .with_post_processor(settings.post_processor)
            .with_decoder(settings.decoder)
            .build()?;
        whole.add_tokens(settings.added_tokens.into_iter().map(|added| added.token))?;
        Ok(whole)
    }
}

impl<'de> Deserialize<'de> for Model {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        ModelWrapper::deserialize(deserializer).map(|model| Model::Library(model.into()))
    }
}

impl Serialize for Model {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Library(model) => model.serialize(serializer),
            Self::Unigram(model) => model.to_library().map_err(ser::Error::custom)?.serialize(serializer),
        }
    }
}

impl tokenizers::Model for Model {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, sequence: &str) -> Result<Vec<Token>> {
        match self {
            Self::Library(model) => model.tokenize(sequence),
            Self::Unigram(model) => model.tokenize(sequence),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Library(model) => model.token_to_id(token),
            Self::Unigram(model) => model.find(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::Library(model) => model.id_to_token(id),
            Self::Unigram(model) => model.piece(id),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Self::Library(model) => model.get_vocab(),
            Self::Unigram(model) => model.vocabulary(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Self::Library(model) => model.get_vocab_size(),
            Self::Unigram(model) => model.len(),
        }
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        match self {
            Self::Library(model) => model.save(folder, prefix),
            Self::Unigram(model) => model.to_library()?.save(folder, prefix),
        }
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Self::Library(model) => model.get_trainer(),
            Self::Unigram(_) => UnigramTrainer::default().into(),
        }
    }
}
