"""The import hook: the user's modules are guarded, and nothing else is."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import inspect
import linecache
import re
import runpy
import sys
import traceback
import types
import warnings
import zipfile
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
from beside import Folder

from gpurescue.magics import plain
from gpurescue.recovery import frames, loops
from gpurescue.source.hook import Hook
from gpurescue.source.loops import LOOP


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.setattr("builtins.__gr_iter__", loops.loop_iterator, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    with Folder(tmp_path) as opened:
        yield opened
    plain.restore()


def is_guarded(function: types.FunctionType) -> bool:
    return frames.has_guards(function.__code__)


LOOPED = """\
def total(items):
    found = 0
    for item in items:
        found += item
    return found
"""


def test_a_module_beside_the_notebook_is_guarded(folder):
    folder.write("user_loop.py", LOOPED)
    module = folder.load("user_loop")
    assert is_guarded(module.total)
    assert module.total([1, 2]) == 3
    assert inspect.getsource(module.total) == LOOPED
    assert folder.compiled_files() == []


def test_a_compiled_file_that_is_there_is_neither_used_nor_changed(folder):
    path = folder.write("user_cached.py", LOOPED)
    folder.hook.remove()
    folder.load("user_cached")
    (compiled,) = folder.compiled_files()
    before = compiled.read_bytes(), compiled.stat().st_mtime_ns
    del sys.modules["user_cached"]
    folder.hook.install()
    assert is_guarded(folder.load("user_cached").total)
    assert (compiled.read_bytes(), compiled.stat().st_mtime_ns) == before
    del sys.modules["user_cached"]
    folder.hook.remove()
    assert not is_guarded(folder.load("user_cached").total)
    assert path.exists()


def test_packages_relative_imports_and_namespace_packages(folder):
    folder.write("user_pkg/__init__.py", "from .inner import deep\n")
    folder.write("user_pkg/inner/__init__.py", "from ..other import f as deep\n")
    folder.write("user_pkg/other.py", "def f():\n    return __name__, __package__\n")
    folder.write("user_space/part/leaf.py", "def g():\n    return 1\n")
    package = folder.load("user_pkg")
    assert package.deep() == ("user_pkg.other", "user_pkg")
    assert is_guarded(package.deep)
    assert is_guarded(folder.load("user_space.part.leaf").g)
    assert type(folder.load("user_space").__spec__.loader) is not SourceFileLoader
    assert folder.load("user_space").__file__ is None
    assert folder.compiled_files() == []


def test_future_imports_and_encodings_count(folder):
    source = "# coding: latin-1\nfrom __future__ import annotations\n"
    body = "def f(x: Unknown) -> Unknown:\n    return 'gr\xfc\xdfe'\n"
    folder.write("user_latin.py", (source + body).encode("latin-1"))
    f = folder.load("user_latin").f
    assert f(1) == "gr\xfc\xdfe"
    assert f.__annotations__ == {"x": "Unknown", "return": "Unknown"}
    assert is_guarded(f)


def test_other_line_ends_keep_their_lines(folder):
    text = b"x = 1\r\n\x0c\r\ndef f():\r\n    y = 1\r\n    return y / 0\r\n"
    folder.write("user_ends.py", text)
    try:
        folder.load("user_ends").f()
    except ZeroDivisionError as error:
        found = traceback.extract_tb(error.__traceback__)[-1]
    assert (found.lineno, found.line) == (5, "return y / 0")


def test_a_syntax_error_is_the_users_own(folder):
    path = folder.write("user_wrong.py", "def f(:\n    pass\n")
    with pytest.raises(SyntaxError) as caught:
        folder.load("user_wrong")
    assert caught.value.filename == str(path)
    assert caught.value.lineno == 1
    files = [f.filename for f in traceback.extract_tb(caught.value.__traceback__)]
    assert not [name for name in files if "gpurescue/source" in name]
    assert "user_wrong" not in sys.modules


@pytest.mark.parametrize(
    "source",
    ["await x\n", "return 1\n", "def f():\n    break\n", "def f():\n    x\0 = 1\n"],
)
def test_what_cannot_be_compiled_fails_as_without_us(folder, source):
    folder.write("user_bad.py", source)
    messages = []
    for _ in range(2):
        with pytest.raises(SyntaxError) as caught:
            folder.load("user_bad")
        messages.append(str(caught.value))
        folder.hook.remove()
    assert messages[0] == messages[1]


def test_an_error_in_the_module_shows_no_frame_of_ours(folder):
    folder.write("user_raises.py", "def f():\n    return 1 / 0\nf()\n")
    with pytest.raises(ZeroDivisionError) as caught:
        folder.load("user_raises")
    found = traceback.extract_tb(caught.value.__traceback__)
    assert [f.name for f in found][-2:] == ["<module>", "f"]
    assert not [f for f in found if "gpurescue/source" in f.filename]


def test_warnings_are_shown_once(folder):
    folder.write("user_warns.py", "def f(x):\n    return x is 1\n")
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        folder.load("user_warns")
    assert [str(w.message) for w in shown] == [str(shown[0].message)]
    assert shown[0].filename.endswith("user_warns.py")


def test_files_of_others_are_left_alone(folder, tmp_path):
    names = (
        ".hidden/user_a.py",
        "lib/site-packages/user_b.py",
        "env/user_c.py",
        "conda/user_d.py",
    )
    for name in names:
        folder.write(name, LOOPED)
        sys.path.insert(0, str((tmp_path / name).parent))
    folder.write("env/pyvenv.cfg", "")
    folder.write("conda/conda-meta/history", "")
    try:
        for name in names:
            assert not is_guarded(folder.load(Path(name).stem).total), name
    finally:
        del sys.path[: len(names)]


def test_archives_are_left_alone(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "user.zip", "w") as archive:
        archive.writestr("user_zipped.py", LOOPED)
    sys.path.insert(0, str(tmp_path / "user.zip"))
    try:
        assert not is_guarded(folder.load("user_zipped").total)
    finally:
        sys.path.pop(0)


def test_a_line_in_the_file_leaves_it_out(folder):
    folder.write("user_off.py", "# gpurescue: off\n" + LOOPED)
    folder.write("user_on.py", "'# gpurescue: off'\n" + LOOPED)
    assert not is_guarded(folder.load("user_off").total)
    assert is_guarded(folder.load("user_on").total)


def test_files_behind_a_link_belong_to_the_folder(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "user_linked.py").write_text(LOOPED)
    (folder.path / "linked").symlink_to(elsewhere)
    sys.path.insert(0, str(folder.path / "linked"))
    try:
        assert is_guarded(folder.load("user_linked").total)
    finally:
        sys.path.pop(0)
        del sys.modules["user_linked"]


def test_a_finder_in_front_keeps_its_word(folder):
    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name != "user_other":
                return None
            return importlib.util.spec_from_loader(name, loader)

    class Loader(SourceFileLoader):
        def get_code(self, name):
            return compile("made = 'elsewhere'", "x", "exec")

    path = folder.write("user_other.py", "made = 'here'\n")
    loader = Loader("user_other", str(path))
    sys.meta_path.insert(1, Finder)
    try:
        assert folder.load("user_other").made == "elsewhere"
    finally:
        sys.meta_path.remove(Finder)


def test_a_module_that_is_not_there_is_not_found(folder):
    with pytest.raises(ModuleNotFoundError, match="No module named 'user_nowhere'"):
        folder.load("user_nowhere")
    assert importlib.util.find_spec("user_nowhere") is None


def test_running_a_module_as_a_script(folder):
    folder.write(
        "user_script.py",
        LOOPED + "if __name__ == '__main__':\n    found = total([1, 2, 3])\n",
    )
    names = runpy.run_module("user_script", run_name="__main__")
    assert names["found"] == 6


def test_reload_takes_what_was_saved(folder):
    folder.write("user_again.py", LOOPED)
    module = folder.load("user_again")
    folder.edit("user_again.py", ("found = 0", "found = 10"))
    assert importlib.reload(module).total([1]) == 11
    assert is_guarded(module.total)
    (loaded,) = folder.modules
    assert "found = 10" in loaded.version.unit.source


def test_old_code_keeps_its_text(folder):
    path = folder.write("user_text.py", "def f():\n    return 1 / 0\n")
    old = folder.load("user_text").f
    folder.write("user_text.py", "# new\n# lines\ndef f():\n    return 2\n")
    importlib.reload(sys.modules["user_text"])
    with pytest.raises(ZeroDivisionError) as caught:
        old()
    text = "".join(traceback.format_exception(caught.value))
    shown = re.escape(f'File "{path} (version 1, ')
    assert re.search(rf"{shown}\w+\)\", line 2, in f\n    return 1 / 0\n", text)
    new = sys.modules["user_text"].f
    assert new.__code__.co_filename == str(path)
    assert inspect.getsource(new) == "def f():\n    return 2\n"


def test_versions_survive_a_cleared_line_cache(folder):
    folder.write("user_lines.py", LOOPED)
    (function,) = [folder.load("user_lines").total]
    linecache.clearcache()
    from gpurescue.source import cells

    found = cells.definition(function.__code__)
    assert found is not None
    assert found.source == LOOPED.rstrip("\n")


# -- modules that are loaded already ---------------------------------------------------

LOADED = """\
import functools
def wrapped(f):
    @functools.wraps(f)
    def call(*args):
        return f(*args)
    return call
@wrapped
def decorated(x):
    return x
class Net:
    @property
    def part(self):
        return 1
    @part.setter
    def part(self, x):
        self.kept = x
    @staticmethod
    def fixed(): return 2
    def make(self):
        def inner(): return self
        return inner
pair = (lambda x: x + 1, lambda x: x + 2)
inner = Net().make()
kept = [Net.make, decorated.__wrapped__]
"""


def functions_of(path: Path) -> list[types.FunctionType]:
    return [
        found
        for found in gc.get_objects()
        if type(found) is types.FunctionType and found.__code__.co_filename == str(path)
    ]


def test_what_is_loaded_already_is_guarded_in_place(folder):
    path = folder.write("user_before.py", LOADED)
    folder.hook.remove()
    module = folder.load("user_before")
    before = {id(f): f.__code__ for f in functions_of(path)}
    assert len(before) > 8
    assert folder.modules.adopt() == []
    named = [f for f in functions_of(path) if f.__name__ != "<lambda>"]
    assert all(map(is_guarded, named))
    assert module.inner().part == 1
    assert module.pair[1](1) == 3
    plain.restore()
    assert {id(f): f.__code__ for f in functions_of(path)} == before


def test_what_was_edited_since_stays_as_it_is(folder):
    path = folder.write("user_stale.py", LOOPED)
    folder.hook.remove()
    module = folder.load("user_stale")
    before = module.total.__code__
    folder.write("user_stale.py", "\n" + LOOPED)
    assert folder.modules.adopt() == [path.name]
    assert module.total.__code__ is before


def test_removing_the_hook_leaves_nothing(folder):
    folder.write("user_gone.py", LOOPED)
    module = folder.load("user_gone")
    before = list(sys.meta_path)
    other = Hook(folder.modules)
    other.install()
    other.remove()
    assert sys.meta_path == before
    assert type(module.__loader__) is SourceFileLoader
    assert module.__spec__.loader is module.__loader__
    plain.restore()
    code = compile(LOOPED, module.__file__, "exec", dont_inherit=True).co_consts[0]
    assert module.total.__code__ == code
    assert LOOP not in module.total.__code__.co_names
