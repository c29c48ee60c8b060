//! Who takes part, and the texts that they run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use overmask::base::family::bert::{Names, Table};
use overmask::base::{Base, file};
use overmask::engine::{Changes, Engine, EngineKind, EngineOptions, TaskId, TokenBatch};
use overmask::pack::{Input, NamedMask};
use overmask::task::Tokenizer;
use overmask_graph::encoder::{ATTENTION_MASK, INPUT_IDS, Padded, TOKEN_TYPE_IDS};
use overmask_graph::proto::{GraphProto, NodeProto};
use rten_tensor::NdTensor;
use serde_json::Value;

/// Texts as tokens: as ours takes them, and as the others do.
pub(crate) struct Batch {
    pub(crate) ragged: TokenBatch,
    pub(crate) padded: Padded,
}

impl From<TokenBatch> for Batch {
    fn from(ragged: TokenBatch) -> Self {
        Batch { padded: Padded::from(&ragged), ragged }
    }
}

/// Options of our engines in a measurement: derived files lie where the programs have theirs.
pub(crate) fn options(threads: usize) -> Result<EngineOptions> {
    overmask_cli::engine_options(EngineKind::Native, Some(threads))
}

/// Who runs the encoder on a batch.
pub(crate) trait Contender {
    /// One pass, from token numbers to vectors.
    fn pass(&mut self, batch: &Batch) -> Result<()>;
}

/// What the native engine is measured beside, each in its best form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    OnnxRuntime,
    /// Our engine `ort`: ONNX Runtime that may not pack weights, as they may change.
    Unpacked,
    Tract,
    Rten,
    Candle,
}

impl Peer {
    /// In the order of their rows.
    pub(crate) const ALL: [Peer; 5] = [Peer::OnnxRuntime, Peer::Unpacked, Peer::Tract, Peer::Rten, Peer::Candle];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::OnnxRuntime => "ONNX Runtime dense",
            Peer::Unpacked => "ONNX Runtime, weights may change",
            Peer::Tract => "tract",
            Peer::Rten => "rten, weights packed",
            Peer::Candle => "candle",
        }
    }

    /// Sets it up; `masks` are for who can apply them, and so pays for that.
    pub(crate) fn start(self, base: &Arc<Base>, threads: usize, masks: &[NamedMask]) -> Result<Box<dyn Contender>> {
        Ok(match self {
            Peer::OnnxRuntime => Box::new(OnnxRuntime::new(base, threads, None)?),
            Peer::Unpacked => Box::new(Ours::new("ort:cpu", base, threads, masks)?),
            Peer::Tract => Box::new(Ours::new("tract", base, 1, &[])?),
            Peer::Rten => Box::new(Rten::new(base, threads)?),
            Peer::Candle => Box::new(Candle::new(base)?),
        })
    }
}

/// One of our engines with a task.
pub(crate) struct Ours {
    engine: Arc<dyn Engine>,
    task: TaskId,
}

impl Ours {
    pub(crate) fn new(name: &str, base: &Arc<Base>, threads: usize, masks: &[NamedMask]) -> Result<Self> {
        let engine = overmask_cli::start(name.parse()?, base, &options(threads)?)?;
        let task = engine.add(Changes::masks_alone(masks))?;
        Ok(Ours { engine, task })
    }
}

impl Contender for Ours {
    fn pass(&mut self, batch: &Batch) -> Result<()> {
        self.engine.encode(self.task, &batch.ragged)?;
        Ok(())
    }
}

/// ONNX Runtime on the base's own graph, with all its optimisations; it packs the constant weights
/// as it likes.
pub(crate) struct OnnxRuntime(Session);

impl OnnxRuntime {
    /// A session; `profile` is where to write what each operator took, if anywhere.
    pub(crate) fn new(base: &Base, threads: usize, profile: Option<&Path>) -> Result<Self> {
        Self::with(&base.model_path(), threads, profile)
    }

    /// A session of another model with the same inputs.
    pub(crate) fn open(model: &Path, threads: usize) -> Result<Self> {
        Self::with(model, threads, None)
    }

    fn with(model: &Path, threads: usize, profile: Option<&Path>) -> Result<Self> {
        let builder = Session::builder(overmask_ort::environment()?).map_err(plain)?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(plain)?;
        let mut builder = builder.with_intra_threads(threads).map_err(plain)?;
        if let Some(path) = profile {
            builder = builder.with_profiling(path).map_err(plain)?;
        }
        Ok(OnnxRuntime(builder.commit_from_file(model).map_err(plain)?))
    }

    /// Ends profiling; returns the file.
    pub(crate) fn end_profiling(&mut self) -> Result<String> {
        self.0.end_profiling().map_err(plain)
    }
}

impl OnnxRuntime {
    /// What the only output holds after a pass.
    pub(crate) fn output(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        let batch = &batch.padded;
        let shape = [batch.batch, batch.sequence];
        let tensor = |values: &Vec<i64>| ort::value::Tensor::from_array((shape, values.clone())).map_err(plain);
        // Some families read no segments.
        let read = self.0.inputs().iter().map(|input| input.name().to_owned()).collect::<Vec<_>>();
        let of = |name: String| batch.input(&name).map(|values| Ok((name, tensor(values)?)));
        let inputs = read.into_iter().filter_map(of).collect::<Result<Vec<_>>>()?;
        let outputs = self.0.run(inputs).map_err(plain)?;
        ensure!(outputs.len() == 1, "not one output");
        let (_, values) = outputs[0].try_extract_tensor::<f32>().map_err(plain)?;
        Ok(values.to_vec())
    }
}

impl Contender for OnnxRuntime {
    fn pass(&mut self, batch: &Batch) -> Result<()> {
        self.output(batch).map(drop)
    }
}

/// Errors of `ort` hold what cannot be sent between threads.
fn plain<R>(error: ort::Error<R>) -> anyhow::Error {
    anyhow!("ONNX Runtime: {error}")
}

/// rten on the same graph, with weights packed when it is loaded.
pub(crate) struct Rten {
    model: rten::Model,
    options: rten::RunOptions,
}

impl Rten {
    pub(crate) fn new(base: &Base, threads: usize) -> Result<Self> {
        // It takes external data only under some names.
        const NAME: &str = "weights.data";
        let mut model = overmask_graph::read_model(&base.model_path())?;
        let graph = model.graph.as_mut().context("the model has no graph")?;
        matmuls(base, graph)?;
        for entry in graph.initializer.iter_mut().flat_map(|tensor| &mut tensor.external_data) {
            if entry.key == "location" {
                entry.value = NAME.to_owned();
            }
        }
        let mut options = rten::ModelOptions::with_all_ops();
        options.prepack_weights(true).external_data(NAME, std::fs::read(base.dir().join(file::WEIGHTS))?);
        let model = options.load(overmask_graph::encode(&model))?;
        let pool = Arc::new(rten::ThreadPool::with_num_threads(threads));
        Ok(Rten { model, options: rten::RunOptions::default().with_thread_pool(Some(pool)) })
    }
}

/// Makes `MatMul` and `Add` of every `Gemm` with a transposed weight: rten packs weights of the
/// former only.
fn matmuls(base: &Base, graph: &mut GraphProto) -> Result<()> {
    let mut nodes = Vec::new();
    for mut node in std::mem::take(&mut graph.node) {
        if node.op_type != "Gemm" {
            nodes.push(node);
            continue;
        }
        let [_, weight, bias] = &node.input[..] else { bail!("a `Gemm` without bias") };
        let initializer = graph.initializer.iter_mut().find(|tensor| tensor.name == *weight);
        let initializer = initializer.with_context(|| format!("`{weight}` is no initializer"))?;
        let (shape, values) = base.tensor_f32(weight)?;
        let transposed = (0..shape[1]).flat_map(|k| (0..shape[0]).map(move |j| values[j * shape[1] + k]));
        initializer.raw_data = transposed.flat_map(f32::to_le_bytes).collect();
        initializer.dims.reverse();
        initializer.external_data.clear();
        initializer.data_location = 0;
        let (product, output) = (format!("{}/product", node.output[0]), node.output[0].clone());
        let add = NodeProto {
            op_type: "Add".to_owned(),
            input: vec![product.clone(), bias.clone()],
            output: vec![output],
            ..Default::default()
        };
        node.op_type = "MatMul".to_owned();
        node.input.truncate(2);
        node.output = vec![product];
        node.attribute.clear();
        nodes.extend([node, add]);
    }
    graph.node = nodes;
    Ok(())
}

impl Contender for Rten {
    fn pass(&mut self, batch: &Batch) -> Result<()> {
        let batch = &batch.padded;
        let fields = [
            (INPUT_IDS, &batch.input_ids),
            (ATTENTION_MASK, &batch.attention_mask),
            (TOKEN_TYPE_IDS, &batch.token_type_ids),
        ];
        let shape = [batch.batch, batch.sequence];
        let mut inputs = Vec::new();
        for (name, values) in fields {
            let values = NdTensor::from_data(shape, values.iter().map(|v| *v as i32).collect::<Vec<_>>());
            inputs.push((self.model.node_id(name)?, values.into()));
        }
        let outputs = self.model.run(inputs, self.model.output_ids(), Some(self.options.clone()))?;
        ensure!(outputs.len() == 1, "not one output");
        Ok(())
    }
}

/// candle's own BERT on the same weights. The number of its threads is that of the environment
/// variable `RAYON_NUM_THREADS`.
pub(crate) struct Candle(bert::BertModel);

impl Candle {
    pub(crate) fn new(base: &Base) -> Result<Self> {
        let architecture = &base.manifest().architecture;
        let (names, sizes) = Names::of_base(base.manifest()).map_err(anyhow::Error::msg)?;
        let bytes = std::fs::read(base.dir().join(file::WEIGHTS))?;
        let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)?;
        let segments = base.tensor_f32(&names.table(Table::Segments))?.0[0];
        let config = bert::Config {
            vocab_size: architecture.vocab_size,
            hidden_size: architecture.hidden_size,
            num_hidden_layers: architecture.layers,
            num_attention_heads: sizes.heads,
            intermediate_size: sizes.intermediate_size,
            hidden_act: bert::HiddenAct::Gelu,
            hidden_dropout_prob: 0.0,
            max_position_embeddings: architecture.max_positions,
            type_vocab_size: segments,
            initializer_range: 0.02,
            layer_norm_eps: sizes.layer_norm_eps,
            pad_token_id: 0,
            position_embedding_type: bert::PositionEmbeddingType::Absolute,
            use_cache: false,
            classifier_dropout: None,
            model_type: None,
        };
        let weights = match names.prefix.trim_end_matches('.') {
            "" => weights,
            prefix => weights.pp(prefix),
        };
        Ok(Candle(bert::BertModel::load(weights, &config)?))
    }
}

impl Contender for Candle {
    fn pass(&mut self, batch: &Batch) -> Result<()> {
        let batch = &batch.padded;
        let shape = (batch.batch, batch.sequence);
        let tensor = |values: &Vec<i64>| {
            Tensor::from_vec(values.iter().map(|v| *v as u32).collect::<Vec<_>>(), shape, &Device::Cpu)
        };
        let (ids, segments) = (tensor(&batch.input_ids)?, tensor(&batch.token_type_ids)?);
        self.0.forward(&ids, &segments, Some(&tensor(&batch.attention_mask)?))?;
        Ok(())
    }
}

/// Real texts, as tokens.
pub(crate) struct Texts {
    texts: Vec<String>,
    tokenizer: Tokenizer,
}

/// Texts of the mixed batch.
const MIXED: usize = 16;

impl Texts {
    /// The texts of a JSONL file.
    pub(crate) fn read(base: &Base, path: &Path) -> Result<Self> {
        let lines = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let texts = lines.lines().map(|line| -> Result<String> {
            let value: Value = serde_json::from_str(line)?;
            Ok(value["text"].as_str().context("a line without `text`")?.to_owned())
        });
        Ok(Texts { texts: texts.collect::<Result<_>>()?, tokenizer: Tokenizer::open(base)? })
    }

    /// The token numbers of the first texts, each of at most so many.
    pub(crate) fn ids(&self, texts: usize, tokens: usize) -> Result<Vec<Vec<u32>>> {
        let texts = self.texts.iter().take(texts);
        let batches =
            texts.map(|text| Ok(self.tokenizer.batch([&self.tokenizer.encode(&text.as_str().into(), tokens)?])));
        batches.map(|batch: Result<TokenBatch>| Ok(batch?.row(0).0.to_vec())).collect()
    }

    /// One text of so many tokens, the first ones together and cut; or the first texts as they are,
    /// of whatever length. With words for a row.
    pub(crate) fn batch(&self, tokens: Option<usize>) -> Result<(String, Batch)> {
        let Some(tokens) = tokens else {
            let texts = self.texts.iter().take(MIXED).map(|text| self.tokenizer.encode(&text.as_str().into(), 128));
            let batch = Batch::from(self.tokenizer.batch(&texts.collect::<Result<Vec<_>, _>>()?));
            let (real, padded) = (batch.ragged.tokens(), batch.padded.input_ids.len());
            return Ok((format!("{MIXED} texts, {real} tokens, {padded} padded"), batch));
        };
        let all = self.texts.iter().take(tokens).map(String::as_str).collect::<Vec<_>>().join(" ");
        let ids = self.tokenizer.encode(&Input::Text(all), tokens)?;
        ensure!(ids.len() == tokens, "there are fewer than {tokens} tokens of text");
        Ok((format!("{tokens} tokens"), self.tokenizer.batch([&ids]).into()))
    }
}

/// What the threads of a peer take to fall asleep: they may spin for a while after its pass, on a processor of whoever
/// comes next. So everybody pauses before a pass; and as the first one after a pause finds the processor slow, it does not
/// count, for nobody.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// The middle of some times.
pub(crate) fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Calls this program for a part of its work; returns what it prints.
pub(crate) fn call_self(child: &str, args: &[&Path], environment: &[(&str, &str)]) -> Result<String> {
    let program: PathBuf = std::env::current_exe()?;
    let mut command = std::process::Command::new(program);
    command.arg(child).args(args).envs(environment.iter().copied()).stderr(std::process::Stdio::inherit());
    let output = command.output()?;
    ensure!(output.status.success(), "`bench {child}` failed: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
