//! Rewrites a parsed template so that its run is bounded and its errors say where they happened.
//!
//! * A call of one of our functions, and an access to a field, becomes a call of a *site*: a function made for that
//!   one place, which knows what Go would say about it.
//! * After every command of every pipeline stands [`GUARD`], which counts steps and looks at the size of the value, so
//!   no loop, no recursion and no doubling of a variable gets far.

use gotmpl::parse::{CommandNode, Expr, ListNode, Node, Parser, PipeNode, Pos, SmolStr, TemplateNode};

use super::function::{self, Function};

/// The function that counts steps. No template can call it: it is not a word.
pub const GUARD: &str = "#";

/// The function that stands at the end of what is printed: Go prints the data as a struct.
pub const SHOW: &str = "##";

/// The function that answers for site `index`.
pub fn site_name(index: usize) -> String {
    format!("#{index}")
}

/// A place in the text, as Go's errors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Line from 1 and byte from 0: `1:3`.
    pub at: String,
    /// The node as Go prints it.
    pub node: String,
}

/// One argument of a call.
#[derive(Debug, Clone)]
pub struct Argument {
    pub place: Place,
    /// It is written out in the template.
    pub literal: bool,
}

/// What a site does.
#[derive(Debug, Clone)]
pub enum Site {
    /// Calls a function of ours.
    Call { function: Function, place: Place, arguments: Vec<Argument> },
    /// Reads fields, one of the other.
    Field { names: Vec<String>, place: Place },
    /// Stands before `{{template}}`.
    Template { name: String, place: Place },
}

/// A template ready to run.
pub struct Prepared {
    pub main: ListNode,
    pub defines: Vec<(String, ListNode)>,
    pub sites: Vec<Site>,
}

/// Parses and rewrites. The error is a complete text.
pub fn prepare(name: &str, text: &str) -> Result<Prepared, String> {
    let parser = Parser::with_name(Some(name), text, "{{", "}}").map_err(|e| e.to_string())?;
    let (mut main, parsed) = parser.parse().map_err(|e| e.to_string())?;
    let mut rewriter = Rewriter { name, text, sites: Vec::new(), variables: vec!["$".into()] };
    rewriter.list(&mut main)?;
    let mut defines: Vec<(String, ListNode)> = Vec::new();
    for mut define in parsed {
        rewriter.variables = vec!["$".into()];
        rewriter.list(&mut define.body)?;
        // The first of two definitions with content is what Go refuses; an empty one never replaces another.
        match defines.iter_mut().find(|(name, _)| *name == define.name.as_str()) {
            Some((_, body)) if body.is_empty_tree() => *body = define.body,
            Some(_) if define.body.is_empty_tree() => {}
            Some((name, _)) => return Err(format!("template: multiple definition of template {name:?}")),
            None => defines.push((define.name.to_string(), define.body)),
        }
    }
    Ok(Prepared { main, defines, sites: rewriter.sites })
}

struct Rewriter<'a> {
    name: &'a str,
    text: &'a str,
    sites: Vec<Site>,
    variables: Vec<SmolStr>,
}

impl Rewriter<'_> {
    fn list(&mut self, list: &mut ListNode) -> Result<(), String> {
        for mut node in std::mem::take(&mut list.nodes) {
            match &mut node {
                Node::Action(action) => {
                    self.pipe(&mut action.pipe)?;
                    if action.pipe.decl.is_empty() {
                        action.pipe.commands.push(call(action.pos, SHOW, None));
                    }
                }
                Node::If(branch) | Node::With(branch) | Node::Range(branch) => {
                    let outer = self.variables.len();
                    self.pipe(&mut branch.pipe)?;
                    let inner = self.variables.len();
                    self.list(&mut branch.body)?;
                    self.variables.truncate(inner);
                    if let Some(body) = &mut branch.else_body {
                        self.list(body)?;
                    }
                    self.variables.truncate(outer);
                }
                Node::Template(call) => {
                    let before = self.before(call);
                    list.nodes.push(before);
                    if let Some(pipe) = &mut call.pipe {
                        self.pipe(pipe)?;
                    }
                }
                Node::List(inner) => self.list(inner)?,
                Node::Text(_) | Node::Define(_) | Node::Break(_) | Node::Continue(_) => {}
            }
            list.nodes.push(node);
        }
        Ok(())
    }

    fn pipe(&mut self, pipe: &mut PipeNode) -> Result<(), String> {
        for variable in &pipe.decl {
            if pipe.is_assign {
                self.declared(variable, pipe.pos)?;
            } else {
                self.variables.push(variable.clone());
            }
        }
        for (stage, mut command) in std::mem::take(&mut pipe.commands).into_iter().enumerate() {
            let constant = |arg: &Expr| {
                matches!(arg, Expr::Bool(..) | Expr::Dot(_) | Expr::Nil(_) | Expr::Number(..) | Expr::String(..))
            };
            if stage > 0 && command.args.first().is_some_and(constant) {
                let message = format!("non executable command in pipeline stage {}", stage + 1);
                return Err(self.parse_error(command.pos, &message));
            }
            self.command(&mut command)?;
            let guard = call(command.pos, GUARD, None);
            pipe.commands.extend([command, guard]);
        }
        Ok(())
    }

    fn command(&mut self, command: &mut CommandNode) -> Result<(), String> {
        let node = self.print_command(command);
        let arguments: Vec<Argument> = command.args.iter().skip(1).map(|arg| self.argument(arg)).collect();
        for (index, arg) in command.args.iter_mut().enumerate() {
            match arg {
                Expr::Identifier(pos, name) if index == 0 => {
                    if let Some(function) = function::named(name) {
                        let place = Place { at: self.at(pos.offset), node: node.clone() };
                        *name = self.site(Site::Call { function, place, arguments: arguments.clone() });
                    }
                }
                other => self.expr(other)?,
            }
        }
        Ok(())
    }

    fn expr(&mut self, expr: &mut Expr) -> Result<(), String> {
        let printed = self.print(expr);
        match expr {
            Expr::Identifier(pos, name) => {
                if let Some(function) = function::named(name) {
                    let place = Place { at: self.at(pos.offset), node: name.to_string() };
                    *name = self.site(Site::Call { function, place, arguments: Vec::new() });
                }
            }
            Expr::Pipe(_, pipe) => self.pipe(pipe)?,
            Expr::Field(pos, names) => {
                // Go places a chain of fields at its second one.
                let offset = pos.offset + if names.len() > 1 { 1 + names[0].len() } else { 0 };
                let pos = *pos;
                let site = self.field_site(names, offset, printed);
                *expr = wrap(pos, &site, Expr::Dot(pos));
            }
            Expr::Variable(pos, name, names) => {
                self.declared(name, *pos)?;
                if !names.is_empty() {
                    let (pos, name) = (*pos, name.clone());
                    let site = self.field_site(names, pos.offset + name.len(), printed);
                    *expr = wrap(pos, &site, Expr::Variable(pos, name, Vec::new()));
                }
            }
            // The engine calls an identifier inside a chain itself and walks the fields.
            Expr::Chain(_, inner, _) => self.expr(inner)?,
            Expr::Dot(_) | Expr::String(..) | Expr::Number(..) | Expr::Bool(..) | Expr::Nil(_) => {}
        }
        Ok(())
    }

    fn declared(&self, variable: &SmolStr, pos: Pos) -> Result<(), String> {
        if self.variables.contains(variable) {
            return Ok(());
        }
        Err(self.parse_error(pos, &format!("undefined variable \"{variable}\"")))
    }

    fn parse_error(&self, pos: Pos, message: &str) -> String {
        format!("template: {}:{}: {message}", self.name, pos.line)
    }

    fn site(&mut self, site: Site) -> SmolStr {
        self.sites.push(site);
        SmolStr::from(site_name(self.sites.len() - 1))
    }

    fn field_site(&mut self, names: &[SmolStr], offset: usize, node: String) -> SmolStr {
        let names = names.iter().map(ToString::to_string).collect();
        self.site(Site::Field { names, place: Place { at: self.at(offset), node } })
    }

    /// The action before `{{template}}`: it counts, also where the call has no pipeline, and knows the name.
    fn before(&mut self, template: &TemplateNode) -> Node {
        let from = template.pos.offset.min(self.text.len());
        let offset = self.text[from..].find(['"', '`']).map_or(from, |quote| from + quote);
        let pipe = template.pipe.as_ref().map(|pipe| format!(" {}", self.print_pipe(pipe))).unwrap_or_default();
        let node = format!("{{{{template {:?}{pipe}}}}}", template.name.as_str());
        let place = Place { at: self.at(offset), node };
        let site = self.site(Site::Template { name: template.name.to_string(), place });
        let commands = vec![call(template.pos, &site, None), call(template.pos, GUARD, None)];
        let pipe = PipeNode { pos: template.pos, decl: Vec::new(), commands, is_assign: false };
        Node::Action(gotmpl::parse::ActionNode { pos: template.pos, pipe })
    }

    fn argument(&self, arg: &Expr) -> Argument {
        let literal = matches!(arg, Expr::String(..) | Expr::Number(..) | Expr::Bool(..) | Expr::Nil(_));
        Argument { place: Place { at: self.at(arg.pos().offset), node: self.print(arg) }, literal }
    }

    fn at(&self, offset: usize) -> String {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        format!("{}:{}", 1 + before.matches('\n').count(), before.len() - line_start)
    }

    fn print_pipe(&self, pipe: &PipeNode) -> String {
        let commands: Vec<String> = pipe.commands.iter().map(|command| self.print_command(command)).collect();
        let sign = if pipe.is_assign { "=" } else { ":=" };
        match pipe.decl.as_slice() {
            [] => commands.join(" | "),
            decl => format!("{} {sign} {}", decl.join(", "), commands.join(" | ")),
        }
    }

    fn print_command(&self, command: &CommandNode) -> String {
        command.args.iter().map(|arg| self.print(arg)).collect::<Vec<_>>().join(" ")
    }

    /// An expression as Go prints it: literals as they were written, everything else in a fixed form.
    fn print(&self, expr: &Expr) -> String {
        match expr {
            Expr::Dot(_) => ".".to_owned(),
            Expr::Field(_, names) => format!(".{}", names.join(".")),
            Expr::Variable(_, name, names) => names.iter().fold(name.to_string(), |chain, name| chain + "." + name),
            Expr::Identifier(_, name) => name.to_string(),
            Expr::String(pos, _) | Expr::Number(pos, _) => self.literal(pos.offset).to_owned(),
            Expr::Bool(_, value) => value.to_string(),
            Expr::Nil(_) => "nil".to_owned(),
            Expr::Pipe(_, pipe) => format!("({})", self.print_pipe(pipe)),
            Expr::Chain(_, inner, names) => format!("{}.{}", self.print(inner), names.join(".")),
        }
    }

    /// The literal that starts at `offset` of the text.
    fn literal(&self, offset: usize) -> &str {
        let rest = self.text.get(offset..).unwrap_or_default();
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'));
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|(_, c)| match quote {
            Some(quote) => {
                let closes = *c == quote && !escaped;
                escaped = *c == '\\' && quote != '`' && !escaped;
                closes
            }
            None => !(c.is_alphanumeric() || matches!(c, '.' | '_')),
        });
        end.map_or(rest, |(index, _)| &rest[..index + usize::from(quote.is_some())])
    }
}

fn call(pos: Pos, name: &str, arg: Option<Expr>) -> CommandNode {
    let mut args = vec![Expr::Identifier(pos, SmolStr::from(name))];
    args.extend(arg);
    CommandNode { pos, args }
}

fn wrap(pos: Pos, site: &str, base: Expr) -> Expr {
    Expr::Pipe(pos, PipeNode { pos, decl: Vec::new(), commands: vec![call(pos, site, Some(base))], is_assign: false })
}
