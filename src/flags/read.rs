//! From the text of a document to the checked one, or to what is wrong and where.

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use super::bucket::{Algorithm, Bucketing, FULL};
use super::document::{Document, Flag, FlagFault, Rule, Stage, TextSet};
use super::json::Node;
use crate::guard::Policy;
use crate::ids::cut;
use crate::mutants::mutant;

/// Longest document, in bytes.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// Most flags of a document.
pub(super) const MAX_FLAGS: usize = 1_000;
/// Most rules of a flag.
const MAX_RULES: usize = 100;
/// Most attributes that the rules of a document look at.
const MAX_ATTRIBUTES: usize = 64;
/// Most flags that one requires.
const MAX_REQUIRES: usize = 16;
/// Most flags that are looked at to decide one.
const MAX_LOOKS: u32 = 256;
/// Longest name of a flag or an attribute, and longest salt, in bytes.
pub(super) const MAX_NAME: usize = 128;
/// Longest record of a rollback, in bytes.
pub(super) const MAX_RECORD: usize = 16 << 10;
/// Highest revision: what every JSON reader can hold exactly.
const MAX_REVISION: u64 = 1 << 53;

type Fallible<T> = Result<T, FlagFault>;

/// A place in the document.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn write(&self, text: &mut String) {
        match self {
            Self::Root => {}
            Self::Key(above, key) => {
                above.write(text);
                text.push('/');
                text.push_str(&cut(key, MAX_NAME).replace('~', "~0").replace('/', "~1"));
            }
            Self::Item(above, at) => {
                above.write(text);
                text.push('/');
                text.push_str(itoa::Buffer::new().format(*at));
            }
        }
    }

    fn fault<T>(&self, problem: impl Into<String>, fix: impl Into<String>) -> Fallible<T> {
        let mut path = String::new();
        self.write(&mut path);
        Err(FlagFault::new(path, problem, fix))
    }

    fn wrong_kind<T>(&self, wanted: &str, node: &Node, fix: &str) -> Fallible<T> {
        self.fault(format!("{wanted} is wanted, got {}", node.kind()), fix)
    }
}

/// The entries of an object. Each is taken once; what is left at the end is refused by its name.
struct Entries<'a> {
    path: &'a Path<'a>,
    left: Vec<(&'a str, &'a Node)>,
}

impl<'a> Entries<'a> {
    fn of(path: &'a Path<'a>, node: &'a Node, fix: &str) -> Fallible<Self> {
        let Node::Map(entries) = node else {
            return path.wrong_kind("an object", node, fix);
        };
        let mut left: Vec<_> = entries.iter().map(|(key, value)| (&**key, value)).collect();
        left.sort_by_key(|(key, _)| *key);
        if let Some(twice) = left.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let fix = "Remove one: which of the two counts depends on who reads it";
            return Path::Key(path, twice[0].0).fault("this key is there twice", fix);
        }
        Ok(Self { path, left })
    }

    fn take(&mut self, key: &str) -> Option<&'a Node> {
        let at = self.left.iter().position(|(name, _)| *name == key)?;
        Some(self.left.swap_remove(at).1)
    }

    fn end(self, known: &str) -> Fallible<()> {
        match self.left.into_iter().min_by_key(|(key, _)| *key) {
            Some((key, _)) if !mutant!(UnknownFieldPasses) => {
                Path::Key(self.path, key).fault("this field is not known", format!("Known are: {known}"))
            }
            _ => Ok(()),
        }
    }
}

impl Document {
    /// Reads and checks a document. `origin` is for messages.
    pub fn read(text: &str, origin: &str) -> Result<Self, FlagFault> {
        if text.len() > MAX_BYTES {
            let problem = format!("it has {} bytes, at most {MAX_BYTES} are read", text.len());
            return Path::Root.fault(problem, "Name users by rules on their attributes instead of long lists");
        }
        let root: Node = serde_json::from_str(text).or_else(|error| {
            let problem = format!("it is not JSON: {error}");
            Path::Root.fault(problem, "Mend the text there; the document is one JSON object")
        })?;
        let path = Path::Root;
        let fix = "A document is {\"schema\": 1, \"revision\": 1, \"flags\": {...}}";
        let mut entries = Entries::of(&path, &root, fix)?;
        schema(&path, entries.take("schema"))?;
        let revision = match entries.take("revision") {
            Some(Node::Whole(revision)) if (1..=MAX_REVISION).contains(revision) => *revision,
            found => {
                let at = Path::Key(&path, "revision");
                let problem = found.map_or("it is missing".to_owned(), |node| {
                    format!("a whole number from 1 is wanted, got {}", node.kind())
                });
                return at.fault(problem, "Count the document's changes: 1, 2, 3, ...");
            }
        };
        let kill_switch = boolean(&Path::Key(&path, "kill_switch"), entries.take("kill_switch"))?;
        opaque_list(&Path::Key(&path, "history"), entries.take("history"))?;
        text_or_nothing(&Path::Key(&path, "description"), entries.take("description"))?;
        let at = Path::Key(&path, "flags");
        let Some(node) = entries.take("flags") else {
            return at.fault(
                "it is missing",
                "List the flags: {\"flags\": {\"modern_execution\": {...}}}",
            );
        };
        let flags = Entries::of(&at, node, "Flags are an object: {\"modern_execution\": {...}}")?;
        entries.end("schema, revision, kill_switch, flags, history, description")?;
        if flags.left.len() > MAX_FLAGS {
            let problem = format!("there are {} flags, at most {MAX_FLAGS} are read", flags.left.len());
            return at.fault(problem, "Remove flags whose migration is complete");
        }
        let mut reader = Reader::of(&flags.left);
        let mut read = Vec::with_capacity(flags.left.len());
        for (name, node) in &flags.left {
            read.push(reader.flag(&Path::Key(&at, name), name, node)?);
        }
        reader.close(&at, &mut read)?;
        Ok(Self {
            revision,
            kill_switch,
            names: read.iter().map(|flag| flag.name.clone()).zip(0..).collect(),
            flags: read.into(),
            attributes: reader.attributes.into(),
            text: text.into(),
            origin: cut(origin, 1_024).into(),
        })
    }
}

struct Reader<'a> {
    /// Flags by name, as they are numbered.
    numbers: HashMap<&'a str, u32>,
    attributes: Vec<Box<str>>,
}

impl<'a> Reader<'a> {
    fn of(flags: &[(&'a str, &'a Node)]) -> Self {
        Self {
            numbers: flags.iter().map(|(name, _)| *name).zip(0..).collect(),
            attributes: Vec::new(),
        }
    }

    fn flag(&mut self, path: &Path<'_>, name: &str, node: &Node) -> Fallible<Flag> {
        check_name(path, name)?;
        let mut entries = Entries::of(
            path,
            node,
            "A flag is an object: {\"state\": \"on\", \"rollout\": 2500}",
        )?;
        let mut take = |key: &'static str| (Path::Key(path, key), entries.take(key));
        let (at, found) = take("state");
        let on = match found {
            Some(Node::Text(word)) if matches!(&**word, "on" | "off") => &**word == "on",
            None => true,
            Some(_) => return at.fault("\"on\" or \"off\" is wanted", "\"off\" is the control for everybody"),
        };
        let (at, found) = take("algorithm");
        let algorithm = algorithm(&at, found)?;
        let (at, salt) = take("salt");
        let salt = salt_of(&at, salt, name)?;
        let (at, unit) = take("unit");
        if !matches!(unit, None | Some(Node::Text(_))) || matches!(unit, Some(Node::Text(unit)) if &**unit != "user_id")
        {
            let fix = "Use \"user_id\": sessions and sockets change, and their user would change with them";
            return at.fault("only \"user_id\" is bucketed", fix);
        }
        let (at, deny) = take("deny");
        let deny = texts(&at, deny)?;
        let (at, allow) = take("allow");
        let allow = texts(&at, allow)?;
        let (at, rules) = take("rules");
        let rules = self.rules(&at, rules, algorithm)?;
        let (at, requires) = take("requires");
        let requires = self.requires(&at, requires)?;
        let (at, node) = take("rollout");
        let rollout = node.map(|node| rollout(&at, node, algorithm)).transpose()?;
        let (at, node) = take("stage");
        let stage = stage(&at, node)?;
        let (at, record) = take("rollback");
        let rolled_back = record.map(|record| object(&at, record, &[])).transpose()?;
        let (at, record) = take("resumed");
        let resumed = record
            .map(|record| object(&at, record, &["ack", "actor"]))
            .transpose()?;
        let (at, guard) = take("guard");
        guard.map(|guard| policy(&at, guard)).transpose()?;
        let (at, history) = take("history");
        opaque_list(&at, history)?;
        let (at, description) = take("description");
        text_or_nothing(&at, description)?;
        entries.end(
            "state, salt, algorithm, unit, deny, allow, rules, rollout, requires, stage, guard, rollback, resumed, history, \
             description",
        )?;
        Ok(Flag {
            name: name.into(),
            on,
            bucketing: Bucketing::new(algorithm, salt),
            deny,
            allow,
            reads_attributes: !rules.is_empty(),
            rules,
            requires,
            rollout,
            stage,
            rolled_back,
            resumed,
            told: OnceLock::new(),
        })
    }

    fn rules(&mut self, path: &Path<'_>, node: Option<&Node>, algorithm: Algorithm) -> Fallible<Box<[Rule]>> {
        const FIX: &str = "A rule is {\"if\": {\"tier\": [\"enterprise\"]}, \"rollout\": 50000}";
        let mut rules = Vec::new();
        for (at, node) in list(path, node, MAX_RULES, "rules")?.iter().enumerate() {
            let path = Path::Item(path, at);
            let mut entries = Entries::of(&path, node, FIX)?;
            let at = Path::Key(&path, "if");
            let Some(conditions) = entries.take("if") else {
                return at.fault("it is missing: the rule would be for everybody", FIX);
            };
            let mut checked = Vec::new();
            let written = Entries::of(&at, conditions, FIX)?.left;
            if written.is_empty() {
                return at.fault("it names no attribute: the rule would be for everybody", FIX);
            }
            for (name, values) in written {
                let at = Path::Key(&at, name);
                check_name(&at, name)?;
                let values = match values {
                    Node::Text(value) => TextSet::from_iter([value.clone()]),
                    values => texts(&at, Some(values))?,
                };
                if values.is_empty() {
                    return at.fault("no value is listed, so the rule never applies", FIX);
                }
                checked.push((self.attribute(&at, name)?, values));
            }
            let at = Path::Key(&path, "rollout");
            let Some(node) = entries.take("rollout") else {
                return at.fault("it is missing", FIX);
            };
            let rollout = rollout(&at, node, algorithm)?;
            text_or_nothing(&Path::Key(&path, "description"), entries.take("description"))?;
            entries.end("if, rollout, description")?;
            rules.push(Rule {
                conditions: checked.into(),
                rollout,
            });
        }
        Ok(rules.into())
    }

    /// The number of an attribute.
    fn attribute(&mut self, path: &Path<'_>, name: &str) -> Fallible<u32> {
        let known = self.attributes.iter().position(|known| **known == *name);
        let number = known.unwrap_or(self.attributes.len());
        if known.is_none() {
            if number == MAX_ATTRIBUTES {
                let problem = format!("the rules look at more than {MAX_ATTRIBUTES} attributes");
                return path.fault(problem, "Put what belongs together into one attribute, such as a tier");
            }
            self.attributes.push(name.into());
        }
        Ok(u32::try_from(number).unwrap_or_default())
    }

    fn requires(&self, path: &Path<'_>, node: Option<&Node>) -> Fallible<Box<[u32]>> {
        let mut required = BTreeSet::new();
        for (at, node) in list(path, node, MAX_REQUIRES, "required flags")?.iter().enumerate() {
            let path = Path::Item(path, at);
            let Node::Text(name) = node else {
                return path.wrong_kind("the name of a flag", node, "Write it as a string");
            };
            let Some(number) = self.numbers.get(&**name) else {
                return path.fault(
                    "the document has no flag of this name",
                    "Add the flag, or remove it here",
                );
            };
            required.insert(*number);
        }
        Ok(required.into_iter().collect())
    }

    /// What flags require of each other has an end, and not too many looks on the way.
    fn close(&self, path: &Path<'_>, flags: &mut [Flag]) -> Fallible<()> {
        let mut state = vec![Look::NotYet; flags.len()];
        for number in 0..flags.len() {
            self.look(path, flags, &mut state, number)?;
        }
        Ok(())
    }

    /// How many flags are looked at to decide this one. Goes deep without the stack: a chain may be as long as the document.
    fn look(&self, path: &Path<'_>, flags: &mut [Flag], state: &mut [Look], first: usize) -> Fallible<()> {
        let mut open = vec![(first, 0)];
        while let Some((number, at)) = open.pop() {
            let fault = |problem: String, fix: &str| {
                let above = Path::Key(path, &flags[number].name);
                Path::Key(&above, "requires").fault(problem, fix)
            };
            if at == 0 {
                match state[number] {
                    Look::Done(_) => continue,
                    Look::Open => {
                        let fix = "Remove one of them: neither could ever be decided";
                        return fault("the flags require each other in a circle".to_owned(), fix);
                    }
                    Look::NotYet => state[number] = Look::Open,
                }
            }
            if let Some(next) = flags[number].requires.get(at) {
                open.push((number, at + 1));
                open.push((*next as usize, 0));
                continue;
            }
            let mut looks = 1;
            let mut reads = flags[number].reads_attributes;
            for required in &flags[number].requires {
                let required = *required as usize;
                looks += state[required].looks();
                reads |= flags[required].reads_attributes;
            }
            if looks > MAX_LOOKS {
                let problem = format!("{looks} flags would be looked at for one decision, at most {MAX_LOOKS} are");
                return fault(problem, "Require fewer flags, or flags that require fewer");
            }
            flags[number].reads_attributes = reads;
            state[number] = Look::Done(looks);
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Look {
    NotYet,
    Open,
    Done(u32),
}

impl Look {
    const fn looks(self) -> u32 {
        if let Self::Done(looks) = self { looks } else { 0 }
    }
}

fn schema(path: &Path<'_>, node: Option<&Node>) -> Fallible<()> {
    if matches!(node, Some(Node::Whole(1))) {
        return Ok(());
    }
    let problem = match node {
        None => "it is missing".to_owned(),
        Some(Node::Whole(other)) => format!("schema {other} is not known"),
        Some(other) => format!("1 is wanted, got {}", other.kind()),
    };
    Path::Key(path, "schema").fault(problem, "This version reads schema 1")
}

fn check_name(path: &Path<'_>, name: &str) -> Fallible<()> {
    if name.trim().is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        let fix = "Choose another name, such as modern_execution";
        return path.fault(
            format!("a name has 1 to {MAX_NAME} bytes and no control characters"),
            fix,
        );
    }
    Ok(())
}

fn algorithm(path: &Path<'_>, node: Option<&Node>) -> Fallible<Algorithm> {
    let Some(node) = node else {
        return Ok(Algorithm::default());
    };
    let named = if let Node::Text(name) = node {
        Algorithm::named(name)
    } else {
        None
    };
    named.map_or_else(
        || {
            let known = Algorithm::ALL.map(Algorithm::name).join(", ");
            path.fault("this algorithm is not known", format!("Known are: {known}"))
        },
        Ok,
    )
}

fn salt_of<'a>(path: &Path<'_>, node: Option<&'a Node>, name: &'a str) -> Fallible<&'a str> {
    let salt = match node {
        None => name,
        Some(Node::Text(salt)) => salt,
        Some(other) => return path.wrong_kind("a string", other, "Leave it out to use the flag's name"),
    };
    if salt.is_empty() || salt.len() > MAX_NAME || salt.contains(':') {
        let problem = format!("a salt has 1 to {MAX_NAME} bytes and no ':', which stands between salt and user");
        return path.fault(problem, "Write another salt; without one it is the flag's name");
    }
    Ok(salt)
}

fn rollout(path: &Path<'_>, node: &Node, algorithm: Algorithm) -> Fallible<u32> {
    let rollout = match node {
        Node::Whole(rollout) => u32::try_from(*rollout).ok().filter(|rollout| *rollout <= FULL),
        _ => None,
    };
    let Some(rollout) = rollout else {
        let problem = match node {
            Node::Whole(rollout) => format!("{rollout} is more than {FULL}"),
            other => format!("a whole number is wanted, got {}", other.kind()),
        };
        return path.fault(problem, "It is counted in 100 000ths, from 0 to 100000: 25 % is 25000");
    };
    if !rollout.is_multiple_of(algorithm.step()) {
        let (name, step) = (algorithm.name(), algorithm.step());
        let problem = format!(
            "{name} has steps of {} %, {rollout} is between two",
            f64::from(step) / 1_000.0
        );
        return path.fault(
            problem,
            format!("Use a multiple of {step}, or mm3-mul-v1 for a new flag"),
        );
    }
    Ok(rollout)
}

fn stage(path: &Path<'_>, node: Option<&Node>) -> Fallible<Option<Stage>> {
    let named = match node {
        None => return Ok(None),
        Some(Node::Text(name)) => Stage::named(name),
        Some(_) => None,
    };
    if named.is_none() {
        let known = Stage::ALL.map(Stage::name).join(", ");
        return path.fault("this stage is not known", format!("Known are: {known}"));
    }
    Ok(named)
}

fn boolean(path: &Path<'_>, node: Option<&Node>) -> Fallible<bool> {
    match node {
        None => Ok(false),
        Some(Node::Bool(value)) => Ok(*value),
        Some(other) => path.wrong_kind("true or false", other, "Write it without quotes"),
    }
}

fn list<'a>(path: &Path<'_>, node: Option<&'a Node>, most: usize, what: &str) -> Fallible<&'a [Node]> {
    match node {
        None => Ok(&[]),
        Some(Node::List(items)) if items.len() <= most => Ok(items),
        Some(Node::List(items)) => {
            let problem = format!("there are {} {what}, at most {most} are read", items.len());
            path.fault(problem, "Remove what is no longer needed")
        }
        Some(other) => path.wrong_kind("a list", other, "Put it into brackets"),
    }
}

/// How many there may be is bounded by the length of the document.
fn texts(path: &Path<'_>, node: Option<&Node>) -> Fallible<TextSet> {
    let mut texts = TextSet::default();
    for (at, node) in list(path, node, usize::MAX, "")?.iter().enumerate() {
        let Node::Text(text) = node else {
            return Path::Item(path, at).wrong_kind(
                "a string",
                node,
                "Write ids as strings, as the application has them",
            );
        };
        texts.insert(text.clone());
    }
    Ok(texts)
}

/// An object that is kept as it is, with these texts in it.
fn object(path: &Path<'_>, node: &Node, wanted: &[&str]) -> Fallible<Box<str>> {
    let entries = Entries::of(path, node, "It is an object")?;
    for key in wanted {
        let found = entries.left.iter().find(|(name, _)| name == key);
        if !matches!(found, Some((_, Node::Text(text))) if !text.trim().is_empty()) {
            let fix = format!(
                "It has {} as texts: who takes the responsibility, and for what",
                wanted.join(", ")
            );
            return Path::Key(path, key).fault("a text is wanted", fix);
        }
    }
    let text = serde_json::to_string(node).unwrap_or_default();
    if text.len() > MAX_RECORD {
        let problem = format!("it has {} bytes, at most {MAX_RECORD} are kept", text.len());
        return path.fault(problem, "Keep what is longer elsewhere and name it here");
    }
    Ok(text.into())
}

/// What the guard of a flag is told. A misspelt metric would always pass, and a guard that is made of it when the service is
/// started again would keep it from starting.
fn policy(path: &Path<'_>, node: &Node) -> Fallible<()> {
    let text = object(path, node, &[])?;
    let mut place = String::new();
    path.write(&mut place);
    let found = Policy::parse(&text, &place);
    found
        .map(|_| ())
        .map_err(|error| FlagFault::new(error.path, error.problem, error.fix))
}

fn opaque_list(path: &Path<'_>, node: Option<&Node>) -> Fallible<()> {
    list(path, node, 1_000, "entries").map(|_| ())
}

fn text_or_nothing(path: &Path<'_>, node: Option<&Node>) -> Fallible<()> {
    match node {
        None | Some(Node::Text(_)) => Ok(()),
        Some(other) => path.wrong_kind("a string", other, "Write a line for people, or leave it out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> FlagFault {
        Document::read(text, "").expect_err("refused")
    }

    fn of_flag(flag: &str) -> FlagFault {
        fault(&format!(
            r#"{{"schema":1,"revision":1,"flags":{{"base":{{}},"x":{flag}}}}}"#
        ))
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, path) in [
            ("", ""),
            ("[]", ""),
            ("{}", "/schema"),
            (r#"{"schema":2}"#, "/schema"),
            (r#"{"schema":"1"}"#, "/schema"),
            (r#"{"schema":1}"#, "/revision"),
            (r#"{"schema":1,"revision":0,"flags":{}}"#, "/revision"),
            (r#"{"schema":1,"revision":1.5,"flags":{}}"#, "/revision"),
            (r#"{"schema":1,"revision":-1,"flags":{}}"#, "/revision"),
            (r#"{"schema":1,"revision":90071992547409930,"flags":{}}"#, "/revision"),
            (r#"{"schema":1,"revision":1}"#, "/flags"),
            (r#"{"schema":1,"revision":1,"flags":[]}"#, "/flags"),
            (
                r#"{"schema":1,"revision":1,"flags":{},"kill_switch":"yes"}"#,
                "/kill_switch",
            ),
            (r#"{"schema":1,"revision":1,"flags":{},"kill":true}"#, "/kill"),
            (r#"{"schema":1,"revision":1,"revision":2,"flags":{}}"#, "/revision"),
            (r#"{"schema":1,"revision":1,"flags":{"a":{},"a":{}}}"#, "/flags/a"),
            (r#"{"schema":1,"revision":1,"flags":{"a/b~c":[]}}"#, "/flags/a~1b~0c"),
            (r#"{"schema":1,"revision":1,"flags":{"":{}}}"#, "/flags/"),
            (r#"{"schema":1,"revision":1,"flags":{"a:b":{}}}"#, "/flags/a:b/salt"),
        ] {
            assert_eq!(fault(text).path, path, "{text}");
        }
        for (flag, path) in [
            ("1", ""),
            (r#"{"state":"ON"}"#, "/state"),
            (r#"{"state":true}"#, "/state"),
            (r#"{"salt":""}"#, "/salt"),
            (r#"{"salt":"a:b"}"#, "/salt"),
            (r#"{"algorithm":"md5"}"#, "/algorithm"),
            (r#"{"unit":"session_id"}"#, "/unit"),
            (r#"{"rollout":100001}"#, "/rollout"),
            (r#"{"rollout":25.5}"#, "/rollout"),
            (r#"{"rollout":true}"#, "/rollout"),
            (r#"{"rollout":null}"#, "/rollout"),
            (r#"{"rollout":500,"algorithm":"unleash"}"#, "/rollout"),
            (r#"{"rollout":5,"algorithm":"growthbook-v2"}"#, "/rollout"),
            (r#"{"rolout":5}"#, "/rolout"),
            (r#"{"allow":"ann"}"#, "/allow"),
            (r#"{"deny":["ann",7]}"#, "/deny/1"),
            (r#"{"requires":["base","none"]}"#, "/requires/1"),
            (r#"{"requires":["x"]}"#, "/requires"),
            (r#"{"stage":"half"}"#, "/stage"),
            (r#"{"rules":[{"rollout":1}]}"#, "/rules/0/if"),
            (r#"{"rules":[{"if":{},"rollout":1}]}"#, "/rules/0/if"),
            (r#"{"rules":[{"if":{"tier":[]},"rollout":1}]}"#, "/rules/0/if/tier"),
            (r#"{"rules":[{"if":{"tier":["a"]}}]}"#, "/rules/0/rollout"),
            (
                r#"{"rules":[{"if":{"tier":"a"},"rollout":1,"then":2}]}"#,
                "/rules/0/then",
            ),
            (r#"{"rollback":true}"#, "/rollback"),
            (r#"{"resumed":{"ack":"INC-1"}}"#, "/resumed/actor"),
            (r#"{"history":{}}"#, "/history"),
        ] {
            let found = of_flag(flag);
            assert_eq!(found.path, format!("/flags/x{path}"), "{flag}: {found}");
        }
    }

    #[test]
    fn nothing_deep_or_large_does_harm() {
        let deep = format!(
            r#"{{"schema":1,"history":{}{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert!(fault(&deep).problem.contains("recursion limit"));
        let long = " ".repeat(MAX_BYTES + 1);
        assert_eq!(fault(&long).path, "");
        // A chain as long as a document may be, written so that the first needs the last.
        let flags: Vec<_> = (0..MAX_FLAGS)
            .map(|number| format!(r#""f{number:04}":{{"requires":["f{:04}"]}}"#, (number + 1) % MAX_FLAGS))
            .collect();
        let circle = fault(&format!(
            r#"{{"schema":1,"revision":1,"flags":{{{}}}}}"#,
            flags.join(",")
        ));
        assert!(circle.problem.contains("circle"), "{circle}");
        let open = flags[..MAX_FLAGS - 1].join(",") + r#","f0999":{}"#;
        let chain = fault(&format!(r#"{{"schema":1,"revision":1,"flags":{{{open}}}}}"#));
        assert!(chain.problem.contains("for one decision"), "{chain}");
        // Two ways from each level to the next: 2^20 looks without the bound.
        let mut levels = vec![r#""l20":{},"r20":{}"#.to_owned()];
        for level in 0..20 {
            let both = format!(r#"{{"requires":["l{0}","r{0}"]}}"#, level + 1);
            levels.push(format!(r#""l{level}":{both},"r{level}":{both}"#));
        }
        let bushy = fault(&format!(
            r#"{{"schema":1,"revision":1,"flags":{{{}}}}}"#,
            levels.join(",")
        ));
        assert!(bushy.problem.contains("for one decision"), "{bushy}");
        let many: Vec<_> = (0..=MAX_FLAGS).map(|number| format!(r#""f{number}":{{}}"#)).collect();
        let many = fault(&format!(
            r#"{{"schema":1,"revision":1,"flags":{{{}}}}}"#,
            many.join(",")
        ));
        assert_eq!(many.path, "/flags");
    }

    #[test]
    fn what_no_guard_can_have_is_refused_where_it_stands() {
        let guarded = |guard: &str| format!(r#"{{"schema":1,"revision":1,"flags":{{"a/b":{{"guard":{guard}}}}}}}"#);
        for (guard, path) in [
            (
                r#"{"metrics":{"run_eror":{"bound":0.01}}}"#,
                "/flags/a~1b/guard/metrics/run_eror",
            ),
            (r#"{"alpha":0.001,"alpha":0.002}"#, "/flags/a~1b/guard/alpha"),
            (r#"{"ladder":[100]}"#, "/flags/a~1b/guard/ladder"),
            ("[]", "/flags/a~1b/guard"),
        ] {
            assert_eq!(fault(&guarded(guard)).path, path);
        }
        Document::read(&guarded(r#"{"min_samples":200,"mode":"abort"}"#), "").expect("valid");
    }

    #[test]
    fn a_whole_document_is_read() {
        let text = r#"{"schema": 1, "revision": 42, "kill_switch": false, "description": "a rollout", "history": [{"at": "now"}],
            "flags": {"modern_context": {"rollout": 100000},
                      "modern_execution": {"state": "on", "salt": "s", "algorithm": "mm3-mul-v1", "unit": "user_id",
                        "deny": ["dan"], "allow": ["ann"], "rules": [{"if": {"tier": ["enterprise"]}, "rollout": 50000}],
                        "rollout": 2500, "requires": ["modern_context"], "stage": "shadow", "guard": {"alpha": 0.001},
                        "resumed": {"ack": "INC-1", "actor": "ann", "at": "now"}, "history": [], "description": "x"}}}"#;
        let document = Document::read(text, "here").expect("valid");
        assert_eq!(
            (document.revision(), document.origin(), document.is_killed()),
            (42, "here", false)
        );
        assert_eq!(
            document.flags().map(|flag| &**flag).collect::<Vec<_>>(),
            ["modern_context", "modern_execution"]
        );
        assert_eq!(document.stage("modern_execution"), Some(Stage::Shadow));
        assert_eq!(&**document.text(), text);
        assert!(document.rolled_back().next().is_none());
    }
}
