//! What can be found.

/// Whether a finding opens something, or is about somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// Who has it may do something: keys, tokens, passwords.
    Secret,
    /// It is about a person.
    Personal,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal in $group:ident,)+) => {
        /// What was found. The order is that of preference where findings overlap: the more particular ones come first.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $variant,)+
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in masks and findings.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Whether it is a secret or personal.
            pub const fn group(self) -> Group {
                match self {
                    $(Self::$variant => Group::$group,)+
                }
            }
        }
    };
}

kinds! {
    /// A private key in PEM armour.
    Pem = "PEM" in Secret,
    /// A JSON web token, signed or encrypted, whose header can be read.
    Jwt = "JWT" in Secret,
    /// A key of Anthropic's.
    Anthropic = "ANTHROPIC_KEY" in Secret,
    /// A key of `OpenAI`'s.
    OpenAi = "OPENAI_KEY" in Secret,
    /// The id of an access key of AWS.
    Aws = "AWS_KEY" in Secret,
    /// A token of GitHub's.
    GitHub = "GITHUB_TOKEN" in Secret,
    /// A token of GitLab's.
    GitLab = "GITLAB_TOKEN" in Secret,
    /// An API key, access token or client secret of Google's.
    Google = "GOOGLE_KEY" in Secret,
    /// A token or webhook of Slack's.
    Slack = "SLACK_TOKEN" in Secret,
    /// A secret or restricted key, or a webhook's secret, of Stripe's.
    Stripe = "STRIPE_KEY" in Secret,
    /// A token of npm's.
    Npm = "NPM_TOKEN" in Secret,
    /// A token of `PyPI`'s.
    Pypi = "PYPI_TOKEN" in Secret,
    /// `user:password` of a URL.
    Credentials = "CREDENTIALS" in Secret,
    /// What stands after `Bearer`.
    Bearer = "BEARER" in Secret,
    /// The value of a key whose name says that it is secret, or something random beside such a name.
    Secret = "SECRET" in Secret,
    /// What belongs to another user.
    Foreign = "FOREIGN" in Secret,
    /// What a detector of the application found.
    Custom = "CUSTOM" in Personal,
    /// A payment card's number.
    Card = "CARD" in Personal,
    /// A bank account's number.
    Iban = "IBAN" in Personal,
    /// A social security number of the USA.
    Ssn = "SSN" in Personal,
    /// An e-mail address.
    Email = "EMAIL" in Personal,
    /// A telephone number in international form.
    Phone = "PHONE" in Personal,
    /// An IPv4 or IPv6 address.
    Ip = "IP" in Personal,
}

impl Kind {
    /// The kind of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds(u32);

impl Kinds {
    /// None.
    pub const NONE: Self = Self(0);
    /// What is looked for unless something else is said: everything but telephone numbers and addresses of computers, which
    /// look like many other numbers.
    pub const DEFAULT: Self = Self(Self::all().0 & !(1 << Kind::Phone as u8) & !(1 << Kind::Ip as u8));

    /// The secrets.
    pub const SECRETS: Self = {
        let (mut set, mut at) = (Self::NONE, 0);
        while at < Kind::ALL.len() {
            if matches!(Kind::ALL[at].group(), Group::Secret) {
                set = set.with(Kind::ALL[at]);
            }
            at += 1;
        }
        set
    };

    /// What is personal.
    pub const PERSONAL: Self = Self(Self::all().0 & !Self::SECRETS.0);

    /// Every kind.
    pub const fn all() -> Self {
        Self((1 << Kind::ALL.len()) - 1)
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, kind: Kind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// With one less.
    #[must_use]
    pub const fn without(self, kind: Kind) -> Self {
        Self(self.0 & !(1 << kind as u8))
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it is in the set.
    pub const fn has(self, kind: Kind) -> bool {
        self.0 >> kind as u8 & 1 == 1
    }

    /// Whether any of these is in the set.
    pub fn has_any(self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| self.has(*kind))
    }
}

impl Default for Kinds {
    fn default() -> Self {
        Self::DEFAULT
    }
}
