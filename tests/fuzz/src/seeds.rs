//! Inputs to start from: sound ones of every kind. They lie in `seeds/` for libFuzzer; a test sees
//! that they are these.

use std::convert::Infallible;
use std::path::Path;

use overmask::base::Base;
use overmask::codec;
use overmask::derived::{DerivedFile, Directory};
use overmask::mask::{Granularity, Mask};
use overmask::pack::{
    Codec, Delta, FloatType, Golden, Head, Input, NamedMask, Pack, PackDocument, PackSet, Pooling, SCHEMA, TaskKind,
    TextSettings,
};
use overmask_graph::GraphBuilder;
use overmask_graph::proto::data_type;

/// A text, and its signature by minisign 0.11 with a key of which this is the public part.
pub const SIGNED: &[u8] = b"One frozen base, many small packs.\n";
pub const PUBLIC_KEY: &str = "untrusted comment: minisign public key F098C5BBB34D36CC\n\
    RWTMNk2zu8WY8AlhGdAUdp3STu8tUowpurBGbke6EuyX6RCtXJ+3yN+7\n";
const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
    RUTMNk2zu8WY8Ktsnu8UUnqpFThYM+AiW/TX1/7reG9mCVN+ky295gg9NwYIsLieuu6qejzPOm6ATg/y7C8hMb74Clp9qPo2Ygs=\n\
    trusted comment: file:text\tmade by minisign 0.11\n\
    Mn2YnAWnRCkP2l67lx+506U7TJMQnJfU8etgBKMMPGIXUYjNRa64JsHx98gzPNBy0ckezAma7lAiouQSWGlFDw==\n";

/// What is fetched out of an archive.
pub const MANIFEST: &str = "name = 'x'\nkind = 'base'\nabout = 'a'\nlicence = 'l'\n\
    [[sources]]\nurl = 'file:///nowhere.tar.gz'\ninside = ['f']\n\
    [[files]]\nname = 'a.txt'\nsize = 5\n\
    sha256 = '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824'\n";

/// A tokenizer of the kind whose pieces we look up by ourselves.
const UNIGRAM: &str = r#"{"version":"1.0",
"added_tokens":[{"id":0,"content":"<s>","single_word":false,
"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},
"model":{"type":"Unigram","unk_id":1,"byte_fallback":true,
"vocab":[["<s>",0.0],["<unk>",0.0],["▁",-2.5],["a",-1.5],["▁a",-2],["it",-3.25],["ab",-3],["<0x3F>",-4.0]]}}"#;

/// The tokenizer of small checkpoints.
pub const TOKENIZER: &str = include_str!("../../fixtures/tiny-bert/tokenizer.json");

/// A small checkpoint.
pub struct Checkpoint {
    pub family: &'static str,
    pub config: &'static str,
    pub weights: &'static [u8],
}

macro_rules! checkpoints {
    ($($name:literal)*) => {
        [$(Checkpoint {
            family: $name,
            config: include_str!(concat!("../../fixtures/alike/", $name, "/config.json")),
            weights: include_bytes!(concat!("../../fixtures/alike/", $name, "/model.safetensors")),
        }),*]
    };
}

/// One of each spelling.
pub const CHECKPOINTS: [Checkpoint; 6] = checkpoints!["bert" "roberta" "distilbert" "albert" "mpnet" "modernbert"];

/// Sound inputs of a target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "pack" => packs(),
        "mask" => masks(),
        "base" => {
            let dir = tempfile::tempdir().unwrap();
            vec![serde_json::to_vec(&super::write_bundle(dir.path())).unwrap()]
        }
        "tokenizer" => vec![TOKENIZER.into(), UNIGRAM.into()],
        "archive" => archives(),
        "onnx" => vec![model()],
        // Few and many rows, masks of weights, of whole steps, of other blocks, and none.
        "kernels" => [[20, 40, 150, 0], [70, 33, 200, 128], [15, 69, 20, 1], [9, 64, 255, 130], [6, 5, 2, 67]]
            .iter()
            .map(|shape| shape.iter().copied().chain((0..=255).rev()).collect())
            .collect(),
        "derived" => vec![derived()],
        "oci" => registry(),
        "torch" => {
            let file = include_bytes!("../../fixtures/torch/saved.bin").to_vec();
            // Torch packs nothing: the pickle lies in the file as it is.
            let start = file.windows(2).position(|two| two == b"\x80\x02").unwrap();
            let end = file.windows(3).position(|three| three == b"sb.").unwrap() + 3;
            vec![file[start..end].to_vec(), file]
        }
        "config" => CHECKPOINTS.iter().map(|checkpoint| checkpoint.config.into()).collect(),
        "signature" => vec![SIGNATURE.into(), PUBLIC_KEY.into()],
        other => panic!("there is no target {other}"),
    }
}

/// What a registry says, and a file of logins, each after the byte that says which it is.
fn registry() -> Vec<Vec<u8>> {
    let digest = "0123456789abcdef".repeat(4);
    let descriptor = |media_type: &str, size: u32| {
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{digest}","size":{size}"#)
    };
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#.to_owned()
        + r#""artifactType":"application/vnd.overmask.pack.v1","config":"#
        + &descriptor("application/vnd.oci.empty.v1+json", 2)
        + "},\"layers\":["
        + &descriptor("application/vnd.overmask.pack.v1+safetensors", 7)
        + r#","annotations":{"org.opencontainers.image.title":"trec.pack"}}],"annotations":{"dev.overmask.tasks":"trec"}}"#;
    let said = [
        &manifest,
        r#"{"token":"a.b-c","expires_in":300}"#,
        r#"{"errors":[{"code":"DENIED","message":"not for you","detail":null}]}"#,
        r#"{"auths":{"registry.example":{"auth":"YToxAAA="},"https://index.docker.io/v1/":{"identitytoken":"x"}},
            "credHelpers":{"third.example":"ecr-login"},"credsStore":"desktop"}"#,
        r#"Basic realm="x", Bearer realm="https://auth.example/token",service="registry.example",scope="a:b\"c""#,
        "https://cdn.example/x?y=z",
        // As 0 to 5.
        "{\"schemaVersion\":2}",
        r#"{"access_token":"a"}"#,
    ];
    (0..).zip(said).map(|(kind, said): (u8, &str)| [&[kind], said.as_bytes()].concat()).collect()
}

/// What the derived file holds that is a seed.
pub const DERIVED: [u32; 20] = [7; 20];

/// A derived file of these values, made in a directory.
pub fn derived_file(dir: &Path, values: &[u32]) -> DerivedFile {
    let file = DerivedFile::new(&Directory::open(dir.join("derived")).unwrap(), "masks32", [7; 32]);
    file.find_or_make(values.len(), |_| Ok::<_, Infallible>(values.to_vec())).unwrap();
    file
}

fn derived() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::read(derived_file(dir.path(), &DERIVED).path()).unwrap()
}

fn packs() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    super::write_bundle(dir.path());
    let base = Base::open(dir.path()).unwrap();
    let mut all = Vec::new();
    let block = Granularity::Block { rows: 2, cols: 1 };
    for (codec, granularity, dtype) in [
        (Codec::Plain, Granularity::Weight, FloatType::F32),
        (Codec::Ranked, Granularity::Weight, FloatType::F16),
        (Codec::Ranked, block, FloatType::Bf16),
    ] {
        let pack = pack(&base, codec, granularity, dtype);
        all.push(pack.to_bytes(Some(&base)).unwrap());
    }
    all.push(tagger(&base).to_bytes(Some(&base)).unwrap());
    let set = PackSet::new(&[("a".into(), all[1].clone())]).unwrap();
    all.push(set.to_bytes().unwrap());
    all
}

fn pack(base: &Base, codec: Codec, granularity: Granularity, dtype: FloatType) -> Pack {
    let units = Mask::keep_all(granularity, 3, 4).unwrap().unit_bits().len();
    let mask = Mask::from_units(granularity, 3, 4, (0..units).map(|i| i != 5)).unwrap();
    let document = PackDocument {
        schema: SCHEMA,
        requires: Vec::new(),
        name: "seed".into(),
        revision: 1,
        kind: TaskKind::Classify,
        labels: vec!["a".into(), "b".into()],
        text: TextSettings { max_tokens: 8, pooling: Pooling::Mean, pair: false },
        base_id: base.base_id().to_owned(),
        tokenizer_sha256: base.manifest().tokenizer_sha256.clone(),
        granularity,
        codec,
        sparsity: 0.1,
        masks: Vec::new(),
        golden: Vec::new(),
        provenance: Default::default(),
        metrics: [("accuracy".to_owned(), 0.5)].into(),
        extra: Default::default(),
    };
    let head = Head { weight: vec![0.5; 8], bias: vec![0.0, 1.0], labels: 2, hidden: 4, dtype };
    let golden = vec![Golden { input: "x".into(), logits: vec![0.25, -1.0] }];
    Pack::new(document, vec![NamedMask { tensor: "w".into(), mask }], head, golden).unwrap()
}

/// A pack of another kind: it tags words, keeps two of four, and replaces a tensor.
fn tagger(base: &Base) -> Pack {
    let Pack { mut document, head, .. } = pack(base, Codec::Ranked, Granularity::Weight, FloatType::F16);
    document.granularity = Granularity::TwoOfFour;
    (document.kind, document.text.pooling) = (TaskKind::Tag, Pooling::First);
    let mask = Mask::from_units(Granularity::TwoOfFour, 3, 4, (0..12).map(|i| i % 4 < 2)).unwrap();
    let tensor = "bert.embeddings.position_embeddings.weight".to_owned();
    let (shape, values) = base.tensor_f32(&tensor).unwrap();
    let delta = Delta { shape: shape.to_vec(), values: values.to_vec(), dtype: FloatType::Bf16, tensor };
    let words = vec!["x".to_owned(), "y".to_owned()];
    let golden = vec![Golden { input: Input::Words { words }, logits: vec![0.25; 4] }];
    let masks = vec![NamedMask { tensor: "w".into(), mask }];
    Pack::new(document, masks, head, golden).unwrap().with_deltas(vec![delta]).unwrap()
}

/// Tar files with the wanted file behind another one: under its name, a long name, and one in a PAX header.
fn archives() -> Vec<Vec<u8>> {
    let entry = |kind: u8, name: &str, content: &[u8]| {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = kind;
        header[257..265].copy_from_slice(if matches!(kind, b'L') { b"ustar  \0" } else { b"ustar\x0000" });
        // The checksum is over a header with spaces in its place.
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
        [&header, content, &padding].concat()
    };
    let (other, wanted) = (entry(b'0', "f/b.txt", &[b'x'; 600]), entry(b'0', "f/a.txt", b"hello"));
    let long = [entry(b'L', "././@LongLink", b"f/a.txt\0"), entry(b'0', "cut", b"hello")].concat();
    let pax = [entry(b'x', "pax", b"16 path=f/a.txt\n"), entry(b'0', "cut", b"hello")].concat();
    [wanted, long, pax].map(|last| [&other[..], &last, &[0; 1024]].concat()).to_vec()
}

fn masks() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    // The shapes that these two bytes stand for.
    for (size, outputs, inputs) in [(4 + 16 * 5, 5, 36), (15, 257, 256)] {
        let units = outputs * inputs;
        let classes: Vec<u8> = (0..units).map(|i| (i * 31 % 64) as u8).collect();
        let keep = (0..units).map(|i| classes[i] > 5 || i % 3 == 0);
        let mask = Mask::from_units(Granularity::Weight, outputs, inputs, keep).unwrap();
        all.push([&[0, size], &codec::encode(&mask, &classes).unwrap()[..]].concat());
    }
    all
}

fn model() -> Vec<u8> {
    let mut g = GraphBuilder::new("seed");
    let x = g.input("x", data_type::FLOAT, &["n", "4"]);
    let half = g.float(0.5);
    g.node("Mul", &[&x, &half], &["y"], &[]);
    g.output("y", data_type::FLOAT, &["n", "4"]);
    overmask_graph::encode(&g.finish())
}
