//! One definition for a section's type, defaults and explanations.

/// A key and its explanation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Lines of its documentation.
    pub(super) comment: &'static [&'static str],
}

/// What the macro knows of a section beside its type.
pub(super) trait Section {
    /// Name in brackets.
    const NAME: &'static str;
    /// Lines of its documentation.
    const COMMENT: &'static [&'static str];
    /// Its keys in the order of their definition.
    const KEYS: &'static [Key];
}

/// Defines a section: the structure with its documentation, `Default`, the TOML
/// form that refuses unknown keys, and [`Section`] for printing.
macro_rules! section {
    (
        $(#[doc = $comment:literal])+
        [$name:literal] $section:ident {
            $(
                $(#[doc = $key_comment:literal])+
                $key:ident: $type:ty = $default:expr;
            )+
        }
    ) => {
        $(#[doc = $comment])+
        #[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $section {
            $(
                $(#[doc = $key_comment])+
                pub $key: $type,
            )+
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $crate::config::section::Section for $section {
            const NAME: &'static str = $name;
            const COMMENT: &'static [&'static str] = &[$($comment),+];
            const KEYS: &'static [$crate::config::section::Key] = &[
                $($crate::config::section::Key {
                    name: stringify!($key),
                    comment: &[$($key_comment),+],
                }),+
            ];
        }
    };
}

pub(super) use section;
