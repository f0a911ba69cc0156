"""What a fix does to the piece of source that was found.

Each operation parses that piece alone with LibCST, changes it, and gives back its text with the comments and the
spacing that were in it. What is outside the piece is not touched, byte for byte.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import libcst as cst

from isolane.migration.codemod.errors import NotFixableError
from isolane.migration.codemod.findings import Finding
from isolane.migration.codemod.source import SourceText, marker_line, statement_starts


@dataclass(frozen=True)
class Edit:
    """A piece of a text and what takes its place. Both offsets count characters."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Target:
    """A finding in its file."""

    source: SourceText
    tree: ast.Module
    finding: Finding

    @property
    def arguments(self) -> Mapping[str, str]:
        """What the rule says the operation needs to know."""
        return self.finding.fix.arguments if self.finding.fix else {}

    @property
    def segment(self) -> str:
        """What was found, as it is written."""
        return self.source.segment(self.finding.span)

    def node(self, *kinds: type[ast.AST]) -> ast.AST:
        """Return the node that was found. Raises ``NotFixableError`` if there is none: the file has changed."""
        for one in ast.walk(self.tree):
            if isinstance(one, kinds) and self.source.span(one) == self.finding.span:
                return one
        raise NotFixableError("it is not there any more")

    def around(self) -> list[ast.AST]:
        """Return what the finding is part of, from the outside in."""
        found: list[ast.AST] = []
        waiting: list[ast.AST] = [self.tree]
        place = (self.finding.span.line, self.finding.span.column)
        end = (self.finding.span.end_line, self.finding.span.end_column)
        while waiting:
            node = waiting.pop()
            for child in ast.iter_child_nodes(node):
                if not hasattr(child, "lineno"):
                    if not isinstance(child, ast.expr_context | ast.operator | ast.boolop | ast.cmpop | ast.unaryop):
                        waiting.append(child)
                    continue
                span = self.source.span(child)
                first = min(
                    [(span.line, span.column), *((one.lineno, 0) for one in getattr(child, "decorator_list", []))]
                )
                if first <= place and end <= (span.end_line, span.end_column):
                    found.append(child)
                    waiting = [child]
                    break
        return found


def _expression(text: str) -> cst.BaseExpression:
    """Parse an expression that may go over several lines without parentheses of its own."""
    try:
        return cst.parse_expression(text)
    except cst.ParserSyntaxError:
        wrapped = cst.parse_expression(f"({text}\n)")
        return wrapped.with_changes(lpar=wrapped.lpar[1:], rpar=wrapped.rpar[:-1])


def _code(node: cst.CSTNode) -> str:
    return cst.Module(body=[]).code_for_node(node)


def _whole(target: Target, node: cst.CSTNode) -> list[Edit]:
    start, end = target.source.slice(target.finding.span)
    return [Edit(start, end, _code(node))]


def drop_await(target: Target) -> list[Edit]:
    """``await f()`` becomes ``f()``."""
    node = _expression(target.segment)
    if not isinstance(node, cst.Await):
        raise NotFixableError("it is not awaited any more")
    return _whole(target, node.expression)


def add_await(target: Target) -> list[Edit]:
    """``f()`` becomes ``await f()``, in parentheses where something is asked of the result."""
    target.node(ast.Call)
    awaited: cst.BaseExpression = cst.Await(_expression(target.segment))
    parents = target.around()
    outer = parents[-2] if len(parents) > 1 else None
    if not isinstance(outer, ast.stmt):
        awaited = awaited.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return _whole(target, awaited)


def replace_call(target: Target) -> list[Edit]:
    """A call, with its ``await`` if it has one, becomes another expression."""
    span = target.finding.span
    if target.arguments.get("await"):
        parents = target.around()
        outer = parents[-2] if len(parents) > 1 else None
        if not isinstance(outer, ast.Await):
            raise NotFixableError("it is not awaited any more")
        span = target.source.span(outer)
    start, end = target.source.slice(span)
    return [Edit(start, end, target.arguments["text"])]


def mark(target: Target) -> list[Edit]:
    """A comment is put above the statement."""
    source, starts = target.source, statement_starts(target.tree)
    for node in reversed(target.around()):
        if isinstance(node, ast.stmt) and (line := marker_line(source, starts, node)):
            text = source.line(line)
            indent = text[: len(text) - len(text.lstrip())]
            place = source.place(line, 0)
            return [Edit(place, place, f"{indent}{target.arguments['text']}{source.newline}")]
    raise NotFixableError("its line has no place for a comment")


def copy_deeply(target: Target) -> list[Edit]:
    """``x.copy()``, ``dict(x)``, ``copy.copy(x)`` and ``{**x}`` become ``copy.deepcopy(x)``."""
    node = _expression(target.segment)
    data: cst.BaseExpression = node
    if isinstance(node, cst.Call):
        if node.args:
            data = node.args[0].value
        elif isinstance(node.func, cst.Attribute):
            data = node.func.value
    elif isinstance(node, cst.Dict) and len(node.elements) == 1:
        data = node.elements[0].value
    if data is node and not isinstance(node, cst.Name | cst.Attribute):
        raise NotFixableError("it is no copy any more")
    call = cst.Call(cst.Attribute(cst.Name("copy"), cst.Name("deepcopy")), [cst.Arg(data)])
    return _whole(target, call)


def send_to_one(target: Target) -> list[Edit]:
    """``x.broadcast_message(m)`` becomes ``x.send_to_user(user_id, m)``."""
    node = _expression(target.segment)
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute) or len(node.args) != 1:
        raise NotFixableError("it is no call with one message any more")
    func = node.func.with_changes(attr=cst.Name(target.arguments["method"]))
    user = cst.Arg(_expression(target.arguments["user"]), comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" ")))
    return _whole(target, node.with_changes(func=func, args=[user, *node.args]))


def decide(target: Target) -> list[Edit]:
    """A comparison with a percentage becomes a decision of a flag."""
    given = target.arguments
    text = f'{given["flags"]}.decide("{given["flag"]}", {given["unit"]}).value'
    node = _expression(text)
    if given["not"]:
        node = cst.UnaryOperation(cst.Not(), node, lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return _whole(target, node)


def swap_import(target: Target) -> list[Edit]:
    """One name of ``from a import b, c`` is taken out, and the name that takes its place is imported beside it."""
    given = target.arguments
    statement = next((one for one in target.around() if isinstance(one, ast.ImportFrom)), None)
    if statement is None:
        raise NotFixableError("it is not imported any more")
    source = target.source
    start, end = source.slice(source.span(statement))
    line = cst.parse_statement(source.text[start:end])
    node = line.body[0] if isinstance(line, cst.SimpleStatementLine) else None
    if not isinstance(node, cst.ImportFrom) or isinstance(node.names, cst.ImportStar):
        raise NotFixableError("it is not imported any more")
    names = [
        one
        for one in node.names
        if not (one.evaluated_name == given["drop"] and (one.evaluated_alias or "") == given["as"])
    ]
    if len(names) == len(node.names):
        raise NotFixableError("it is not imported any more")
    added = f"from {given['module']} import {given['add']}" if given["add"] else ""
    if not names:
        # The only name: the statement is the other import, or nothing where that is there already.
        return [Edit(start, end, added)] if added else [_without(target, statement)]
    rest = _code(node.with_changes(names=[*names[:-1], _ending(node, names[-1])]))
    if not added:
        return [Edit(start, end, rest)]
    first = source.line(statement.lineno)
    indent = first[: source.column(statement.lineno, statement.col_offset)]
    if indent.strip():
        return [Edit(start, end, f"{rest}; {added}")]
    return [Edit(start, end, f"{added}{source.newline}{indent}{rest}")]


def _ending(node: cst.ImportFrom, last: cst.ImportAlias) -> cst.ImportAlias:
    """Return the name that is now the last one, ended as the last one was."""
    former = node.names[-1]  # type: ignore[index] # a star has been refused
    if last is former:
        return last
    if not isinstance(former.comma, cst.Comma) or not isinstance(last.comma, cst.Comma):
        return last.with_changes(comma=cst.MaybeSentinel.DEFAULT)
    space, ending = last.comma.whitespace_after, former.comma.whitespace_after
    if isinstance(space, cst.ParenthesizedWhitespace) and isinstance(ending, cst.ParenthesizedWhitespace):
        # Its own comment stays; where the next line begins is the former one's.
        ending = ending.with_changes(first_line=space.first_line)
    return last.with_changes(comma=former.comma.with_changes(whitespace_after=ending))


def _without(target: Target, statement: ast.stmt) -> Edit:
    """Take a statement out: with its line if it is alone there, and never the last one of a block."""
    source = target.source
    start, end = source.slice(source.span(statement))
    for node in (target.tree, *target.around()):
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody", "handlers")):
            if isinstance(body, list) and body == [statement] and node is not target.tree:
                return Edit(start, end, "pass")
    before = source.line(statement.lineno)[: source.column(statement.lineno, statement.col_offset)]
    after = source.text[end : source.line_end(statement.end_lineno or statement.lineno)]
    if before.strip() or after.strip():
        return Edit(start, end, "pass")
    number = statement.end_lineno or statement.lineno
    line_start = source.starts[statement.lineno - 1]
    line_end = source.starts[number] if number < len(source.starts) else len(source.text)
    return Edit(line_start, line_end, "")


def context_signature(target: Target) -> list[Edit]:
    """The state, and what comes with it, give way to a context and a request; what was read of it is read of them."""
    source, given = target.source, target.arguments
    line = target.finding.span.line
    found = [
        one
        for one in ast.walk(target.tree)
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
        and one.lineno == line
        and source.column(line, one.col_offset) == target.finding.span.column
    ]
    if not found:
        raise NotFixableError("it is not there any more")
    function = found[0]
    start, colon = _header(source, function)
    header = source.text[start : colon + 1]
    node = cst.parse_statement(f"{header} ...")
    if not isinstance(node, cst.FunctionDef):
        raise NotFixableError("its header is not read as one")
    dropped = {"run_id", "stream_updates"} if given["entry"] else set()
    params = _parameters(node.params, given["state"], dropped, request=bool(given["request"]))
    text = _code(node.with_changes(name=cst.Name(given["name"]), params=params))
    changed = text[: text.rindex(":")] + ":"
    if _comments(header) != _comments(changed):
        raise NotFixableError("a comment stands between the parameters; move it first")
    return [Edit(start, colon + 1, changed)]


def _header(source: SourceText, function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[int, int]:
    """Return where ``def`` begins, and where its colon is."""
    start = source.place(function.lineno, source.column(function.lineno, function.col_offset))
    piece = SourceText(source.text[start:])
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(piece.text, newline="").readline):
        if token.type != tokenize.OP:
            continue
        if token.string in "([{":
            depth += 1
        elif token.string in ")]}":
            depth -= 1
        elif token.string == ":" and depth == 0:
            return start, start + piece.place(*token.start)
    raise NotFixableError("its header has no end")


def _parameters(params: cst.Parameters, state: str, dropped: set[str], *, request: bool) -> cst.Parameters:
    """Return the parameters with a context, and a request if it is asked for, where the state was."""
    own: list[cst.Param] = []
    for one in params.params:
        if one.name.value == state:
            own.append(one.with_changes(name=cst.Name("context"), annotation=_annotation("UserExecutionContext")))
            if request:
                space = one.comma.whitespace_after if isinstance(one.comma, cst.Comma) else cst.SimpleWhitespace(" ")
                own[-1] = own[-1].with_changes(comma=cst.Comma(whitespace_after=space))
                own.append(cst.Param(cst.Name("request"), _annotation("str"), comma=one.comma))
        elif one.name.value not in dropped:
            own.append(one)
    keyword = [one for one in params.kwonly_params if one.name.value not in dropped]
    if own and own[-1] is not params.params[-1] and not keyword and not params.star_kwarg:
        # The last one ends as the last one did.
        own[-1] = own[-1].with_changes(comma=params.params[-1].comma)
    star = params.star_arg if keyword or isinstance(params.star_arg, cst.Param) else cst.MaybeSentinel.DEFAULT
    return params.with_changes(params=own, kwonly_params=keyword, star_arg=star)


def _annotation(name: str) -> cst.Annotation:
    return cst.Annotation(cst.Name(name))


_COMMENT = re.compile(r"#[^\r\n]*")


def _comments(text: str) -> list[str]:
    """Return the comments of a text that is part of a statement."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(f"({text}\n)", newline="").readline))
    except (tokenize.TokenError, SyntaxError):
        return _COMMENT.findall(text)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def lost_comments(target: Target, edit: Edit) -> bool:
    """Say whether an edit would take a comment out of the source."""
    before = _comments(target.source.text[edit.start : edit.end])
    return any(edit.text.count(one) < before.count(one) for one in before)


OPERATIONS: dict[str, Callable[[Target], list[Edit]]] = {
    "add_await": add_await,
    "context_signature": context_signature,
    "copy_deeply": copy_deeply,
    "decide": decide,
    "drop_await": drop_await,
    "mark": mark,
    "replace_call": replace_call,
    "send_to_one": send_to_one,
    "swap_import": swap_import,
}
