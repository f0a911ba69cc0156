//! Whose line a call is: which of the frames between a legacy function and the bottom of the stack is the application's.

/// Whose code a frame runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// isolane's, or what the caller of the ledger counts as its own.
    Own,
    /// The standard library's, which calls on behalf of somebody: `functools`, `contextlib`, a thread pool.
    Library,
    /// An event loop's. What is below it started the loop and not this call.
    Loop,
    /// Anybody else's.
    Application,
}

/// Where code lives, by the beginning of its file's name.
#[derive(Debug, Clone, Default)]
pub struct Folders {
    /// Files of isolane.
    pub own: Vec<String>,
    /// Event loops, wherever they are.
    pub loops: Vec<String>,
    /// The standard library.
    pub library: Vec<String>,
    /// Installed packages, which may be inside of the standard library's folder and are not part of it.
    pub installed: Vec<String>,
    /// The module that isolane's own functions name when they have no file, such as the `__init__` of a dataclass.
    pub own_module: String,
}

fn begins(file: &str, folders: &[String]) -> bool {
    folders.iter().any(|folder| file.starts_with(folder.as_str()))
}

impl Folders {
    /// Whose frame it is that runs `file`. `module` is asked only for code without a file; `also_own` are further beginnings.
    pub fn origin<'a>(&self, file: &str, also_own: &[String], module: impl FnOnce() -> Option<&'a str>) -> Origin {
        if file.starts_with('<') {
            // The import system stands between a module and the line that imports it.
            if file.starts_with("<frozen importlib") {
                return Origin::Library;
            }
            let is_own = module().is_some_and(|name| {
                name.strip_prefix(self.own_module.as_str())
                    .is_some_and(|rest| !self.own_module.is_empty() && (rest.is_empty() || rest.starts_with('.')))
            });
            return if is_own { Origin::Own } else { Origin::Application };
        }
        if begins(file, &self.own) || begins(file, also_own) {
            Origin::Own
        } else if begins(file, &self.loops) {
            Origin::Loop
        } else if begins(file, &self.library) && !begins(file, &self.installed) {
            Origin::Library
        } else {
            Origin::Application
        }
    }
}

/// What to do after a frame was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look at the frame that called it.
    Outwards,
    /// Stop: [`Walk::site`] is known.
    Done,
}

/// A walk from the innermost frame outwards. `F` is whatever tells a frame.
///
/// The first frame of the application is the site. Where an event loop or the bottom of the stack comes before one, nobody of
/// the application made the call in this stack, and the site is the innermost frame that is not isolane's.
#[derive(Debug)]
pub struct Walk<F> {
    found: Option<F>,
}

impl<F> Default for Walk<F> {
    fn default() -> Self {
        Self { found: None }
    }
}

impl<F> Walk<F> {
    /// Looks at a frame.
    pub fn step(&mut self, origin: Origin, frame: F) -> Step {
        match origin {
            Origin::Own => Step::Outwards,
            Origin::Library => {
                self.found.get_or_insert(frame);
                Step::Outwards
            }
            Origin::Loop => {
                self.found.get_or_insert(frame);
                Step::Done
            }
            Origin::Application => {
                self.found = Some(frame);
                Step::Done
            }
        }
    }

    /// The site, if any frame was not isolane's.
    pub fn site(self) -> Option<F> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders() -> Folders {
        Folders {
            own: vec!["/env/lib/python3/site-packages/isolane/".to_owned()],
            loops: vec!["/usr/lib/python3/asyncio/".to_owned()],
            library: vec!["/usr/lib/python3/".to_owned(), "/env/lib/python3/".to_owned()],
            installed: vec!["/env/lib/python3/site-packages/".to_owned()],
            own_module: "isolane".to_owned(),
        }
    }

    fn site<'a>(frames: &[&'a str]) -> Option<&'a str> {
        let (folders, mut walk) = (folders(), Walk::default());
        for file in frames {
            if walk.step(folders.origin(file, &[], || None), *file) == Step::Done {
                break;
            }
        }
        walk.site()
    }

    #[test]
    fn the_first_line_of_the_application_is_the_site() {
        let own = "/env/lib/python3/site-packages/isolane/compat/bridge.py";
        assert_eq!(site(&[own, own, "/srv/app.py", "/srv/main.py"]), Some("/srv/app.py"));
        let installed = "/env/lib/python3/site-packages/isolane_helpers/a.py";
        assert_eq!(site(&[own, installed, "/srv/main.py"]), Some(installed));
    }

    #[test]
    fn the_standard_library_calls_for_somebody() {
        let own = "/env/lib/python3/site-packages/isolane/a.py";
        let library = "/usr/lib/python3/contextlib.py";
        assert_eq!(site(&[own, library, "/srv/app.py"]), Some("/srv/app.py"));
        assert_eq!(
            site(&[own, "<frozen importlib._bootstrap>", "/srv/app.py"]),
            Some("/srv/app.py")
        );
        // A thread has nobody below its start.
        assert_eq!(site(&[own, library, "/usr/lib/python3/threading.py"]), Some(library));
    }

    #[test]
    fn who_runs_the_loop_did_not_call() {
        let own = "/env/lib/python3/site-packages/isolane/a.py";
        let events = "/usr/lib/python3/asyncio/events.py";
        assert_eq!(site(&[own, events, "/srv/main.py"]), Some(events));
        let library = "/usr/lib/python3/contextlib.py";
        assert_eq!(site(&[own, library, events, "/srv/main.py"]), Some(library));
        assert_eq!(site(&[own]), None);
    }

    #[test]
    fn code_without_a_file_belongs_to_its_module() {
        let of = |module| folders().origin("<string>", &[], || module);
        assert_eq!(of(Some("isolane.compat.a")), Origin::Own);
        assert_eq!(of(Some("isolane")), Origin::Own);
        assert_eq!(of(Some("isolanes")), Origin::Application);
        assert_eq!(of(None), Origin::Application);
        let nameless = Folders {
            own_module: String::new(),
            ..folders()
        };
        assert_eq!(nameless.origin("<string>", &[], || Some(".a")), Origin::Application);
    }

    #[test]
    fn further_folders_can_be_left_out() {
        let also = ["/srv/shims/".to_owned()];
        assert_eq!(folders().origin("/srv/shims/a.py", &also, || None), Origin::Own);
        assert_eq!(folders().origin("/srv/a.py", &also, || None), Origin::Application);
    }
}
