//! Which features of the host's processor a guest is shown. Sources: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix
//! E; System V ABI, AMD64 supplement, section 3.1.1 ("Processor Architecture", the levels x86-64-v1 to v4).

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where CPUID shows a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The name that `--cpu` takes: the manuals' mnemonic in small letters.
    pub name: &'static str,
    /// EAX of the query.
    pub leaf: u32,
    /// ECX of the query.
    pub index: u32,
    /// The register of the answer.
    pub register: Register,
    /// The bit in it, 0 to 31.
    pub bit: u8,
    level: Level,
}

/// A register of CPUID's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// What a baseline does with a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Programs find it from this level on.
    From(u8),
    /// Programs find it in no level.
    Beyond,
    /// It matters to kernels, not to what programs are compiled for: left as the host has it.
    System,
}

/// What of the host's processor the guest is shown; in a configuration file, the text that `--cpu` takes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(into = "String", try_from = "String")]
pub struct CpuModel {
    /// The level of the baseline; none: all that the host has.
    level: Option<u8>,
    added: Vec<&'static Feature>,
    removed: Vec<&'static Feature>,
}

/// Why a text names no processor.
#[derive(Debug, Error)]
pub enum CpuModelError {
    /// The first word is neither a baseline nor a change.
    #[error("There is no processor `{name}`; there is {}", BASELINES.join(", "))]
    Baseline {
        /// The word.
        name: String,
    },
    /// A change is neither an addition nor a removal.
    #[error("`{text}` is neither +FEATURE nor -FEATURE")]
    Change {
        /// The word.
        text: String,
    },
    /// No feature has this name.
    #[error("There is no feature `{name}`; there is {}", names())]
    Feature {
        /// The word.
        name: String,
    },
}

impl fmt::Display for CpuModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            None => formatter.write_str("host")?,
            Some(level) => write!(formatter, "x86-64-v{level}")?,
        }
        let changes = [('+', &self.added), ('-', &self.removed)];
        changes.into_iter().try_for_each(|(sign, features)| {
            features.iter().try_for_each(|feature| write!(formatter, ",{sign}{}", feature.name))
        })
    }
}

impl From<CpuModel> for String {
    fn from(model: CpuModel) -> Self {
        model.to_string()
    }
}

impl TryFrom<String> for CpuModel {
    type Error = CpuModelError;

    fn try_from(text: String) -> Result<Self, CpuModelError> {
        Self::parse(&text)
    }
}

impl CpuModel {
    /// Parses `BASELINE[,+FEATURE|-FEATURE...]`; the baseline may be left out, and is `host` then.
    pub fn parse(text: &str) -> Result<Self, CpuModelError> {
        let mut model = Self::default();
        for (place, word) in text.split(',').enumerate() {
            let (kept, name) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
                (Some(name), _) => (true, name),
                (_, Some(name)) => (false, name),
                _ if place == 0 => {
                    model.level = level(word)?;
                    continue;
                }
                _ => return Err(CpuModelError::Change { text: word.to_owned() }),
            };
            let unknown = || CpuModelError::Feature { name: name.to_owned() };
            let feature = FEATURES.iter().find(|feature| feature.name == name).ok_or_else(unknown)?;
            // The last word on a feature counts.
            model.added.retain(|other| *other != feature);
            model.removed.retain(|other| *other != feature);
            (if kept { &mut model.added } else { &mut model.removed }).push(feature);
        }
        Ok(model)
    }

    /// The features that the guest must not be shown.
    pub fn hidden(&self) -> impl Iterator<Item = &'static Feature> {
        FEATURES.iter().filter(|feature| self.removed.contains(feature) || !self.required_or_free(feature))
    }

    /// The features that the host must have.
    pub fn required(&self) -> impl Iterator<Item = &'static Feature> {
        FEATURES.iter().filter(|feature| {
            let of_level = match (feature.level, self.level) {
                (Level::From(from), Some(level)) => from <= level,
                _ => false,
            };
            !self.removed.contains(feature) && (of_level || self.added.contains(feature))
        })
    }

    fn required_or_free(&self, feature: &'static Feature) -> bool {
        let Some(level) = self.level else { return true };
        self.added.contains(&feature)
            || match feature.level {
                Level::From(from) => from <= level,
                Level::Beyond => false,
                Level::System => true,
            }
    }
}

/// What the first word may be; the levels' names end in their numbers.
const BASELINES: [&str; 6] = ["host", "max", "x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4"];

fn level(name: &str) -> Result<Option<u8>, CpuModelError> {
    match name {
        "host" | "max" => Ok(None),
        "x86-64" | "x86-64-v1" => Ok(Some(1)),
        "x86-64-v2" => Ok(Some(2)),
        "x86-64-v3" => Ok(Some(3)),
        "x86-64-v4" => Ok(Some(4)),
        _ => Err(CpuModelError::Baseline { name: name.to_owned() }),
    }
}

fn names() -> String {
    FEATURES.iter().map(|feature| feature.name).collect::<Vec<_>>().join(", ")
}

const fn feature(name: &'static str, (leaf, index): (u32, u32), register: Register, bit: u8, level: Level) -> Feature {
    Feature { name, leaf, index, register, bit, level }
}

const BASIC: (u32, u32) = (1, 0);
const STRUCTURED: (u32, u32) = (7, 0);
const STRUCTURED_1: (u32, u32) = (7, 1);
const EXTENDED: (u32, u32) = (0x8000_0001, 0);

/// The features that have names here: all that levels speak of, later instructions, and what kernels look for.
const FEATURES: &[Feature] = {
    use Level::{Beyond, From, System};
    use Register::{Eax, Ebx, Ecx, Edx};
    &[
        feature("sse3", BASIC, Ecx, 0, From(2)),
        feature("pclmulqdq", BASIC, Ecx, 1, Beyond),
        feature("vmx", BASIC, Ecx, 5, System),
        feature("ssse3", BASIC, Ecx, 9, From(2)),
        feature("fma", BASIC, Ecx, 12, From(3)),
        feature("cx16", BASIC, Ecx, 13, From(2)),
        feature("pcid", BASIC, Ecx, 17, System),
        feature("sse4.1", BASIC, Ecx, 19, From(2)),
        feature("sse4.2", BASIC, Ecx, 20, From(2)),
        feature("x2apic", BASIC, Ecx, 21, System),
        feature("movbe", BASIC, Ecx, 22, From(3)),
        feature("popcnt", BASIC, Ecx, 23, From(2)),
        feature("tsc-deadline", BASIC, Ecx, 24, System),
        feature("aes", BASIC, Ecx, 25, Beyond),
        feature("xsave", BASIC, Ecx, 26, From(3)),
        feature("avx", BASIC, Ecx, 28, From(3)),
        feature("f16c", BASIC, Ecx, 29, From(3)),
        feature("rdrand", BASIC, Ecx, 30, Beyond),
        feature("fsgsbase", STRUCTURED, Ebx, 0, System),
        feature("bmi1", STRUCTURED, Ebx, 3, From(3)),
        feature("hle", STRUCTURED, Ebx, 4, Beyond),
        feature("avx2", STRUCTURED, Ebx, 5, From(3)),
        feature("smep", STRUCTURED, Ebx, 7, System),
        feature("bmi2", STRUCTURED, Ebx, 8, From(3)),
        feature("erms", STRUCTURED, Ebx, 9, System),
        feature("invpcid", STRUCTURED, Ebx, 10, System),
        feature("rtm", STRUCTURED, Ebx, 11, Beyond),
        feature("avx512f", STRUCTURED, Ebx, 16, From(4)),
        feature("avx512dq", STRUCTURED, Ebx, 17, From(4)),
        feature("rdseed", STRUCTURED, Ebx, 18, Beyond),
        feature("adx", STRUCTURED, Ebx, 19, Beyond),
        feature("smap", STRUCTURED, Ebx, 20, System),
        feature("avx512ifma", STRUCTURED, Ebx, 21, Beyond),
        feature("clflushopt", STRUCTURED, Ebx, 23, System),
        feature("clwb", STRUCTURED, Ebx, 24, System),
        feature("avx512cd", STRUCTURED, Ebx, 28, From(4)),
        feature("sha", STRUCTURED, Ebx, 29, Beyond),
        feature("avx512bw", STRUCTURED, Ebx, 30, From(4)),
        feature("avx512vl", STRUCTURED, Ebx, 31, From(4)),
        feature("avx512vbmi", STRUCTURED, Ecx, 1, Beyond),
        feature("umip", STRUCTURED, Ecx, 2, System),
        feature("pku", STRUCTURED, Ecx, 3, System),
        feature("waitpkg", STRUCTURED, Ecx, 5, Beyond),
        feature("avx512vbmi2", STRUCTURED, Ecx, 6, Beyond),
        feature("gfni", STRUCTURED, Ecx, 8, Beyond),
        feature("vaes", STRUCTURED, Ecx, 9, Beyond),
        feature("vpclmulqdq", STRUCTURED, Ecx, 10, Beyond),
        feature("avx512vnni", STRUCTURED, Ecx, 11, Beyond),
        feature("avx512bitalg", STRUCTURED, Ecx, 12, Beyond),
        feature("avx512vpopcntdq", STRUCTURED, Ecx, 14, Beyond),
        feature("la57", STRUCTURED, Ecx, 16, System),
        feature("rdpid", STRUCTURED, Ecx, 22, Beyond),
        feature("movdiri", STRUCTURED, Ecx, 27, Beyond),
        feature("movdir64b", STRUCTURED, Ecx, 28, Beyond),
        feature("fsrm", STRUCTURED, Edx, 4, System),
        feature("avx512vp2intersect", STRUCTURED, Edx, 8, Beyond),
        feature("serialize", STRUCTURED, Edx, 14, Beyond),
        feature("amx-bf16", STRUCTURED, Edx, 22, Beyond),
        feature("avx512fp16", STRUCTURED, Edx, 23, Beyond),
        feature("amx-tile", STRUCTURED, Edx, 24, Beyond),
        feature("amx-int8", STRUCTURED, Edx, 25, Beyond),
        feature("avx-vnni", STRUCTURED_1, Eax, 4, Beyond),
        feature("avx512bf16", STRUCTURED_1, Eax, 5, Beyond),
        feature("amx-fp16", STRUCTURED_1, Eax, 21, Beyond),
        feature("avx-ifma", STRUCTURED_1, Eax, 23, Beyond),
        feature("lahf", EXTENDED, Ecx, 0, From(2)),
        feature("svm", EXTENDED, Ecx, 2, System),
        feature("lzcnt", EXTENDED, Ecx, 5, From(3)),
        feature("sse4a", EXTENDED, Ecx, 6, Beyond),
        feature("prefetchw", EXTENDED, Ecx, 8, System),
        feature("xop", EXTENDED, Ecx, 11, Beyond),
        feature("fma4", EXTENDED, Ecx, 16, Beyond),
        feature("tbm", EXTENDED, Ecx, 21, Beyond),
        feature("nx", EXTENDED, Edx, 20, System),
        feature("pdpe1gb", EXTENDED, Edx, 26, System),
        feature("rdtscp", EXTENDED, Edx, 27, System),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(text: &str) -> Vec<&'static str> {
        CpuModel::parse(text).unwrap().hidden().map(|feature| feature.name).collect()
    }

    fn required(text: &str) -> Vec<&'static str> {
        CpuModel::parse(text).unwrap().required().map(|feature| feature.name).collect()
    }

    #[test]
    fn a_model_is_written_as_it_is_read() {
        for text in ["host", "x86-64-v3,-avx2", "host,+vmx,+avx,-sse4.2", "x86-64-v1"] {
            let model = CpuModel::parse(text).unwrap();
            assert_eq!(CpuModel::parse(&model.to_string()).unwrap(), model);
            assert_eq!(model.to_string(), text);
        }
        assert_eq!(CpuModel::parse("max,-avx,+avx").unwrap().to_string(), "host,+avx");
    }

    #[test]
    fn the_host_is_shown_whole_unless_something_is_taken() {
        assert!(hidden("host").is_empty() && hidden("max").is_empty());
        assert_eq!(hidden("host,-avx2,-x2apic"), ["x2apic", "avx2"]);
        assert_eq!(hidden("-avx2"), ["avx2"]);
        assert_eq!(hidden("host,-avx2,+avx2"), [""; 0]);
        assert_eq!(required("host,+avx2"), ["avx2"]);
    }

    #[test]
    fn a_level_has_what_the_abi_says_and_the_systems_features() {
        let v2 = ["sse3", "ssse3", "cx16", "sse4.1", "sse4.2", "popcnt", "lahf"];
        assert_eq!(required("x86-64-v2"), v2);
        let v3: Vec<_> = required("x86-64-v3").into_iter().filter(|name| !v2.contains(name)).collect();
        assert_eq!(v3, ["fma", "movbe", "xsave", "avx", "f16c", "bmi1", "avx2", "bmi2", "lzcnt"]);
        let hidden = hidden("x86-64-v2,+aes");
        assert!(hidden.contains(&"avx") && hidden.contains(&"sha") && hidden.contains(&"avx512f"));
        for kept in ["aes", "popcnt", "nx", "x2apic"] {
            assert!(!hidden.contains(&kept), "{kept}");
        }
        assert_eq!(required("x86-64-v2,+aes,-cx16").len(), v2.len());
    }

    #[test]
    fn errors_list_the_names() {
        let error = |text| CpuModel::parse(text).unwrap_err().to_string();
        assert!(error("i486").contains("host, max, x86-64-v1, x86-64-v2"));
        assert!(error("host,-avx9").contains("`avx9`; there is sse3, "));
        assert!(error("host,avx2").contains("neither +FEATURE nor -FEATURE"));
        assert!(error("").contains("no processor ``"));
    }

    #[test]
    fn names_and_places_are_unique() {
        for (at, left) in FEATURES.iter().enumerate() {
            for right in &FEATURES[at + 1..] {
                let place = |feature: &Feature| (feature.leaf, feature.index, feature.register as u8, feature.bit);
                assert!(left.name != right.name && place(left) != place(right), "{left:?} {right:?}");
            }
        }
    }
}
