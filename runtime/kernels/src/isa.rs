//! Which instructions the kernels use: the table of instruction sets.

use std::fmt;
use std::str::FromStr;

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::avx2::{Avx2, AvxVnni};
#[cfg(target_arch = "x86_64")]
use super::avx512::{Avx512, Bf16, Vnni};
use super::kernel::{Codes, Kernel, detected};
#[cfg(target_arch = "aarch64")]
use super::neon::{Bf16, DotProduct, MatrixMultiply, Neon};
use super::portable::Portable;
use super::product::{Kernels, Product, Scratch};
use super::{Affine, Element, NR, PanelMask, Row};

/// Every instruction set with kernels of its own, the fastest last.
static TABLE: &[InstructionSet] = &[
    InstructionSet::new::<Portable, Portable, Portable>("portable"),
    #[cfg(target_arch = "x86_64")]
    InstructionSet::new::<Avx2, Avx2, Avx2>("avx2"),
    #[cfg(target_arch = "x86_64")]
    InstructionSet::new::<Avx2, Avx2, AvxVnni>("avxvnni"),
    #[cfg(target_arch = "x86_64")]
    InstructionSet::new::<Avx512, Avx512, Avx2>("avx512"),
    // Before what has all but its bf16, and so never taken by itself: on the processors that it was measured on, widening
    // is faster.
    #[cfg(target_arch = "x86_64")]
    InstructionSet::new::<Avx512, Bf16, Vnni>("avx512bf16"),
    #[cfg(target_arch = "x86_64")]
    InstructionSet::new::<Avx512, Avx512, Vnni>("avx512vnni"),
    #[cfg(target_arch = "aarch64")]
    InstructionSet::new::<Neon, Neon, Neon>("neon"),
    #[cfg(target_arch = "aarch64")]
    InstructionSet::new::<Neon, Neon, DotProduct>("neondot"),
    #[cfg(target_arch = "aarch64")]
    InstructionSet::new::<Neon, Neon, MatrixMultiply>("neoni8mm"),
    #[cfg(target_arch = "aarch64")]
    InstructionSet::new::<Neon, Bf16, MatrixMultiply>("neonbf16"),
];

/// A line of the table.
pub struct InstructionSet {
    name: &'static str,
    is_there: fn() -> bool,
    f32: Kernels<f32>,
    bf16: Kernels<bf16>,
    int8: Kernels<i8>,
    activation_zero: u8,
    quantize: Quantize,
    dequantize: Dequantize,
}

type Quantize = fn(&[&[Row]], usize, &mut [&mut [Row<u8>]], &mut [Affine]);
type Dequantize = fn(&[Row<i32>], &[Affine], &Row, Option<&Row>, &mut [Row]);

/// An element that the table has kernels for.
pub trait Tabled: Element {
    /// Those of an instruction set.
    #[doc(hidden)]
    fn kernels(set: &InstructionSet) -> &Kernels<Self>;
}

impl Tabled for f32 {
    fn kernels(set: &InstructionSet) -> &Kernels<f32> {
        &set.f32
    }
}

impl Tabled for bf16 {
    fn kernels(set: &InstructionSet) -> &Kernels<bf16> {
        &set.bf16
    }
}

impl Tabled for i8 {
    fn kernels(set: &InstructionSet) -> &Kernels<i8> {
        &set.int8
    }
}

impl<E: Tabled> Product<'_, E> {
    /// Computes it with an instruction set; `sums` has a row for each row of the activations.
    ///
    /// # Panics
    /// When the activations' inputs are not those of the weight, `sums` has not their rows, the mask
    /// is of another weight, or there is no such panel.
    pub fn run(&self, isa: Isa, scratch: &mut Scratch<E>, sums: &mut [Row<E::Sum>]) {
        (E::kernels(isa.0).run)(self, scratch, sums);
    }
}

impl InstructionSet {
    /// A line with the kernels for f32, bf16 and int8.
    const fn new<F: Kernel<f32>, B: Kernel<bf16>, I: Kernel<i8> + Codes>(name: &'static str) -> Self {
        InstructionSet {
            name,
            is_there: || F::detect().is_some() && B::detect().is_some() && I::detect().is_some(),
            f32: Kernels::new::<F>(),
            bf16: Kernels::new::<B>(),
            int8: Kernels::new::<I>(),
            activation_zero: I::ACTIVATION_ZERO,
            quantize: |from, inputs, to, rows| detected::<I>().quantize(from, inputs, to, rows),
            dequantize: |sums, rows, outputs, bias, to| detected::<I>().dequantize(sums, rows, outputs, bias, to),
        }
    }
}

/// An instruction set that this processor has.
#[derive(Clone, Copy)]
pub struct Isa(&'static InstructionSet);

/// An instruction set that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("instruction set `{name}`: {reason}; this processor runs {}", list(.there))]
pub struct IsaError {
    /// The name that was asked for.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
    /// What there is.
    pub there: Vec<Isa>,
}

fn list(there: &[Isa]) -> String {
    there.iter().map(Isa::to_string).collect::<Vec<_>>().join(", ")
}

impl Isa {
    /// All that this processor has, the fastest last.
    pub fn available() -> Vec<Isa> {
        TABLE.iter().filter(|set| (set.is_there)()).map(Isa).collect()
    }

    /// The fastest that this processor has.
    pub fn best() -> Isa {
        // The first line is there on every processor.
        Self::available().pop().unwrap_or(Isa(&TABLE[0]))
    }

    /// What [`Self::quantize`] takes from the code of an activation: nothing, or 128 where instructions multiply numbers
    /// with a sign. [`Self::dequantize`] knows.
    pub fn activation_zero(self) -> u8 {
        self.0.activation_zero
    }

    /// Makes int8 codes of some rows of activations, each from its least value to its largest: `from` and `to` have the
    /// rows of each panel of the activations, `rows` is filled with what the codes of each stand for, to which
    /// [`Self::activation_zero`] was added.
    ///
    /// # Panics
    /// When there are not as many panels or rows.
    pub fn quantize(self, from: &[&[Row]], inputs: usize, to: &mut [&mut [Row<u8>]], rows: &mut [Affine]) {
        assert!(from.len() == inputs.div_ceil(NR) && to.len() == from.len());
        (self.0.quantize)(from, inputs, to, rows);
    }

    /// Makes numbers of the sums of a panel's products of codes, and adds them to the bias, or to what is there. The
    /// last of the sums are those of a row of activations that are all 1: they tell what the zeros of the others add up to.
    ///
    /// # Panics
    /// When there is not one row of sums more than of the others.
    pub fn dequantize(self, sums: &[Row<i32>], rows: &[Affine], outputs: &Row, bias: Option<&Row>, to: &mut [Row]) {
        assert!(rows.len() + 1 == sums.len() && to.len() == rows.len());
        (self.0.dequantize)(sums, rows, outputs, bias, to);
    }

    /// Whether products of an element round their activations to its precision, as instructions that multiply bf16 do.
    pub fn rounds<E: Tabled>(self) -> bool {
        E::kernels(self.0).rounds
    }

    /// What a [`Product`] does with a mask for so many rows, in a few words.
    pub fn form<E: Tabled>(self, mask: PanelMask<'_>, rows: usize) -> &'static str {
        (E::kernels(self.0).form)(mask, rows)
    }
}

impl PartialEq for Isa {
    fn eq(&self, other: &Isa) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Isa {}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Isa").field(&self.0.name).finish()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        let wrong = |reason| IsaError { name: name.to_owned(), reason, there: Self::available() };
        match TABLE.iter().find(|set| set.name == name) {
            None => Err(wrong("is unknown")),
            Some(set) if !(set.is_there)() => Err(wrong("is not there")),
            Some(set) => Ok(Isa(set)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_a_name_of_its_own_that_is_parsed() {
        for (i, set) in TABLE.iter().enumerate() {
            match set.name.parse::<Isa>() {
                Ok(isa) => assert!((set.is_there)() && isa == Isa(set) && isa.to_string() == set.name),
                Err(error) => assert!(!(set.is_there)() && error.to_string().contains("is not there"), "{error}"),
            }
            assert!(TABLE[..i].iter().all(|other| other.name != set.name));
        }
    }

    #[test]
    fn what_is_there_has_a_name_and_what_is_not_is_an_error() {
        let there = Isa::available();
        assert_eq!(there[0].to_string(), "portable");
        for isa in there {
            assert_eq!(isa.to_string().parse::<Isa>(), Ok(isa));
        }
        let error = "neon9".parse::<Isa>().unwrap_err().to_string();
        assert!(error.contains("unknown") && error.contains("portable"), "{error}");
    }
}
