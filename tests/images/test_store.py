"""The store: content-named files, names, workspaces."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from launcher._util.errors import DiskError, ImageError, LauncherError
from launcher.images.build import pack
from launcher.images.build.pipeline import reusable
from launcher.images.manifest import ImageSource, read_manifest
from launcher.images.reference import parse_reference
from launcher.images.store import workspace
from launcher.images.store.building import start_building
from launcher.images.store.collect import collect
from launcher.images.store.lock import LeaseHolder
from launcher.images.store.owner import Owner
from launcher.images.store.store import Store, find_file
from tests.images.locks import in_memory, node, script
from tests.images.stores import MANIFEST, a_store, add, digest_of, whole
from tests.support.limits import seconds
from tests.support.quick import few


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path / "images")


def test_an_image_gets_its_content_for_a_name(store: Store) -> None:
    entry = add(store, "one", "megatron-lm+latest", "mine.sqsh")
    assert entry.digest == f"sha256:{digest_of('one')}"
    assert entry.path == store.root / "sha256" / f"{digest_of('one')}.sqsh"
    assert entry.path.read_text() == "one"
    assert entry.names == ("megatron-lm+latest", "mine")
    assert (store.root / "mine.sqsh").readlink() == Path("sha256", f"{digest_of('one')}.sqsh")
    assert entry.manifest == MANIFEST.model_copy(update={"digest": entry.digest, "size_bytes": 3})
    assert read_manifest(store.root / "mine.sqsh") == entry.manifest
    for path in (entry.path, entry.path.with_suffix(".json")):
        assert path.stat().st_mode & 0o777 == 0o444
    assert whole(store) == [entry]
    assert list(store.partial.iterdir()) == []


def test_the_ways_to_ask_for_an_image(store: Store) -> None:
    entry = add(store, "one", "megatron-lm+latest")
    imported = add(store, "two", parse_reference("nvcr.io/nvidia/nemo:26.08").file_name)
    hub = add(store, "three", parse_reference("debian:12").file_name)
    for text in ("megatron-lm+latest", "megatron-lm+latest.sqsh", "megatron-lm:latest"):
        assert store.find(text) == entry
    for text in (
        f"sha256:{digest_of('one')}",
        digest_of("one"),
        digest_of("one")[:8],
        f"sha256:{digest_of('one')[:9]}",
    ):
        assert store.find(text) == entry
    for text in ("nvcr.io/nvidia/nemo:26.08", "nvcr.io#nvidia/nemo:26.08", "docker://nvcr.io/nvidia/nemo:26.08"):
        assert store.find(text) == imported
    assert store.find("debian:12") == hub
    for text in (
        "megatron-lm",
        digest_of("one")[:7],
        "0" * 64,
        "",
        ".",
        "..",
        "../images",
        "/etc/passwd",
        "a\nb",
        "x" * 300,
    ):
        assert store.find(text) is None


def test_an_ambiguous_beginning_of_a_digest_is_refused_with_the_candidates(store: Store) -> None:
    add(store, "one")
    twins = [store.images / f"{digit * 63}{last}.sqsh" for digit, last in (("a", "0"), ("a", "1"))]
    for twin in twins:
        twin.write_text("x")
    with pytest.raises(ImageError, match="beginning of 2 images") as error:
        store.find("aaaaaaaa")
    assert all(twin.stem in str(error.value.hint) for twin in twins)
    assert store.find(twins[0].stem) is not None


def test_a_name_that_moves_leaves_the_older_image(store: Store) -> None:
    old = add(store, "one", "latest")
    new = add(store, "two", "latest")
    assert store.find("latest") == new
    assert old.path.read_text() == "one"
    assert {entry.path.stem: entry.names for entry in whole(store)} == {
        digest_of("one"): (),
        digest_of("two"): ("latest",),
    }


def test_the_same_content_stays_one_file(store: Store) -> None:
    old = add(store, "one", "a")
    inode = old.path.stat().st_ino
    new = add(store, "one", "b", key="made in another way")
    assert new.names == ("a", "b")
    assert new.path.stat().st_ino == inode
    assert len(whole(store)) == 1
    assert new.added >= old.added


def test_an_image_of_the_store_gets_further_names_without_being_read(store: Store) -> None:
    entry = add(store, "one", "a")
    other = add(store, "two", "b")
    with start_building(store, "key") as building:
        named = building.add_names(entry, ["b", "c.sqsh"])
    assert named.names == ("a", "b", "c")
    assert store.names() == dict.fromkeys(("a", "b", "c"), digest_of("one"))
    collect(store, older_than_s=-1, is_live=lambda _: False)
    assert whole(store) == [named]
    with pytest.raises(ImageError, match="no longer in the store"), start_building(store, "key") as building:
        building.add_names(other, ["d"])
    assert "d" not in store.names()


def test_a_truncated_image_is_seen_and_replaced_by_the_next_build(store: Store) -> None:
    entry = add(store, "one", "a")
    entry.path.chmod(0o644)
    entry.path.write_text("o")
    broken = store.find("a")
    assert broken is not None
    assert broken.problem == "it has 1 bytes, and its manifest says 3"
    assert add(store, "one", "a").problem is None
    whole(store)


def test_a_broken_or_missing_manifest_is_a_problem_of_one_image_only(store: Store) -> None:
    good, broken, bare = add(store, "one"), add(store, "two"), add(store, "three")
    broken.path.with_suffix(".json").unlink()
    broken.path.with_suffix(".json").write_text('{"version": 1')
    bare.path.with_suffix(".json").unlink()
    (store.images / "notes.txt").touch()
    (store.images / "not-a-digest.sqsh").touch()
    found = {entry.path.name: entry for entry in store.entries()}
    assert len(found) == 3
    assert found[good.path.name] == good
    assert "broken manifest" in str(found[broken.path.name].problem)
    assert found[broken.path.name].manifest is None
    assert found[bare.path.name].problem == "it has no manifest"
    for content in ("two", "three"):
        assert add(store, content).problem is None


def test_files_of_others_in_the_root_are_left_alone(store: Store, tmp_path: Path) -> None:
    entry = add(store, "one", "mine")
    cloudai = store.root / "nvcr.io_nvidia__nemo__26.02.00.sqsh"
    cloudai.write_text("theirs")
    outside = tmp_path / "outside.sqsh"
    outside.write_text("elsewhere")
    (store.root / "link.sqsh").symlink_to(outside)
    (store.root / "directory.sqsh").mkdir()
    for name in (cloudai.name, "link", "directory"):
        with pytest.raises(ImageError, match="did not make") as error:
            add(store, "two", "good", name)
        assert error.value.where == str(store.root / name.removesuffix(".sqsh")) + ".sqsh"
        assert "Choose another name" in str(error.value.hint)
    assert whole(store) == [entry]
    assert cloudai.read_text() == "theirs"
    for text in ("nvcr.io/nvidia/nemo:26.02.00", cloudai.name, cloudai.stem):
        found = store.find(text)
        assert found is not None
        assert (found.digest, found.path, found.names) == (None, cloudai, (cloudai.stem,))
    assert [entry.path.name for entry in store.plain_files()] == ["link.sqsh", cloudai.name]


@pytest.mark.parametrize("name", ["", ".sqsh", ".hidden", "a/b", "../x", "..", "a\nb", "a\0b", "x" * 251, "deadbeef"])
def test_names_that_cannot_be(store: Store, name: str) -> None:
    with pytest.raises(ImageError):
        add(store, "one", name)
    assert store.entries() == []
    assert [path.name for path in store.root.iterdir() if not path.name.startswith(".")] == []


def test_a_name_whose_image_somebody_removed_is_said_to_be_broken(store: Store) -> None:
    entry = add(store, "one", "a")
    entry.path.unlink()
    assert store.entries() == []
    with pytest.raises(ImageError, match="that was removed") as error:
        store.find("a")
    assert "rm " in str(error.value.hint)
    assert add(store, "one", "a").names == ("a",)


def test_a_file_from_the_same_disk_is_moved_without_copying(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "made.sqsh"
    source.write_text("one")
    inode = source.stat().st_ino
    with start_building(store, "x") as building:
        entry = building.add(source, MANIFEST, ["a"])
    assert entry.path.stat().st_ino == inode
    assert entry.path.stat().st_nlink == 1
    assert not source.exists()


def test_a_file_from_another_disk_is_copied(store: Store) -> None:
    shm = Path("/dev/shm")
    store.root.mkdir()
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == store.root.stat().st_dev:
        pytest.skip("needs /dev/shm as a file system of its own")
    source = shm / f"launcher-test-{os.getpid()}.sqsh"
    source.write_text("one" * 10**6)
    try:
        with start_building(store, "x") as building:
            entry = building.add(source, MANIFEST, [])
        assert source.exists()
    finally:
        source.unlink()
    assert whole(store) == [entry]


def test_a_file_from_elsewhere_survives_a_build_that_fails(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "made.sqsh"
    source.write_text("one")
    add(store, "zero")
    store.images.rename(tmp_path / "away")
    store.images.write_text("no directory")
    with pytest.raises(DiskError), start_building(store, "x") as building:
        building.add(source, MANIFEST, ["a"])
    assert source.read_text() == "one"


def test_a_store_of_a_group_stays_the_groups(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    root.chmod(0o2775)
    before = os.umask(0o077)
    try:
        add(a_store(root), "one", "a")
        for path in [root, *root.rglob("*")]:
            mode = path.lstat().st_mode
            if path.is_dir():
                assert mode & 0o7777 == 0o2775, path
            elif path.parent.parent == root / ".locks" or path.suffix == ".result":
                assert mode & 0o777 == 0o664, path
    finally:
        os.umask(before)
    private = a_store(tmp_path / "private")
    os.umask(0o077)
    try:
        add(private, "one")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in private.root.rglob("*") if path.is_dir()} == {0o700}


def test_who_waited_gets_what_the_other_made(store: Store) -> None:
    waiting, seen = threading.Event(), []

    def on_wait(_: LeaseHolder) -> None:
        waiting.set()

    def second() -> None:
        with start_building(store, "key", on_wait=on_wait) as building:
            seen.append(building.finished)

    thread = threading.Thread(target=second)
    with start_building(store, "key") as building:
        assert building.finished is None
        thread.start()
        assert waiting.wait(seconds(10))
        (building.workspace / "x").write_text("one")
        entry = building.add(building.workspace / "x", MANIFEST, ["a"])
    thread.join()
    assert seen == [entry]
    with start_building(store, "key") as building:
        assert building.finished is None  # asked for later: whether to build anew is the builder's decision


def test_who_waited_for_a_failure_builds(store: Store) -> None:
    waiting, seen = threading.Event(), []

    def second() -> None:
        with start_building(store, "key", on_wait=lambda _: waiting.set()) as building:
            seen.append(building.finished)

    thread = threading.Thread(target=second)
    with pytest.raises(RuntimeError, match="no network"), start_building(store, "key"):
        thread.start()
        waiting.wait(seconds(10))
        raise RuntimeError("no network")
    thread.join()
    assert seen == [None]
    assert list(store.partial.iterdir()) == []


def leave(store: Store, key: str, owner: Owner) -> Path:
    """What a builder leaves that could not clean up."""
    store.root.mkdir(exist_ok=True)
    space = workspace.make(store.partial, key, owner, 0o700)
    (space / "rootfs" / "locked").mkdir(parents=True)
    (space / "rootfs" / "locked" / "file").write_text("x" * 5000)
    (space / "rootfs" / "locked").chmod(0o555)
    return space


def test_what_a_dead_builder_left_is_removed_by_the_next(store: Store) -> None:
    ended = script("")
    ended.communicate()
    me = Owner.of_this_process()
    dead = Owner(me.host, me.boot_id, me.pid_namespace, ended.pid, 1, "x")
    left = leave(store, "ab12", dead)
    mine = leave(store, "ab34", me)
    stranger = store.partial / "notes"
    stranger.mkdir()
    add(store, "one")
    assert not left.exists()
    assert not left.with_name(f"{left.name}.owner").exists()
    assert mine.exists()
    assert stranger.exists()


def test_workspaces_of_other_machines_stay_while_their_lock_is_held(tmp_path: Path) -> None:
    near, far = a_store(tmp_path / "images"), a_store(tmp_path / "images", host="node-b")
    with start_building(far, "key") as building:
        add(near, "one")
        assert building.workspace.is_dir()
        left = leave(near, building.workspace.name.partition("-")[0], node("node-c"))
        lost = leave(near, "ab56", node("node-c"))
        collect(near, older_than_s=0, is_live=lambda _: None)
        assert building.workspace.is_dir()
        assert left.exists()  # its key is being built
        assert not lost.exists()  # nothing builds that
    add(near, "two")
    assert not left.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_read_only_directories_are_removed_by_their_owner(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    code = """
import os, sys
from pathlib import Path
from launcher.images.store.workspace import remove_tree
os.chdir(sys.argv[1])  # the directories above are root's alone
os.setuid(65534)
top = Path("tree")
for place in ("a/b/c", "d/e"):
    (top / place).mkdir(parents=True)
    (top / place / "file").touch()
for name in ("a/b/c", "a/b", "a", "d/e", "d"):
    (top / name).chmod(0o555 if name < "d" else 0)
print(remove_tree(top), top.exists())
"""
    process = script(code, tmp_path)
    assert process.communicate()[0] == "True False\n"


def test_reading_while_others_remove(store: Store) -> None:
    for number in range(20):
        add(store, str(number), f"name-{number}")
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                assert [entry.problem for entry in store.entries() if entry.problem] == []
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=read)
    thread.start()
    collect(store, older_than_s=-1, is_live=lambda _: False, keep_names=False)
    stop.set()
    thread.join()
    assert failures == []
    assert store.entries() == []


def test_files_of_the_caches_of_others_are_found(tmp_path: Path, store: Store) -> None:
    reference = parse_reference("nvcr.io/nvidia/nemo:26.08")
    cache = tmp_path / "cache"
    cache.mkdir()
    directories = [tmp_path / "missing", cache, store.root]
    assert find_file(directories, reference) is None
    entry = add(store, "one", reference.file_name)
    assert find_file(directories, reference) == entry.path
    (cache / reference.cloudai_name).touch()
    assert find_file(directories, reference) == cache / reference.cloudai_name


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    store = a_store(tmp_path / "none")
    assert (store.entries(), store.names(), store.plain_files(), store.find("x")) == ([], {}, [], None)
    (tmp_path / "file").touch()
    with pytest.raises(DiskError), start_building(a_store(tmp_path / "file" / "x"), "key"):
        pass


CONTENTS = st.sampled_from("abcd")
NAMES = st.sampled_from(["one", "two", "three"])


class Model(RuleBasedStateMachine):
    """The store beside a dictionary of contents and one of names."""

    directories: Path

    def __init__(self) -> None:
        super().__init__()
        number = len(list(self.directories.iterdir()))
        self.store = a_store(self.directories / str(number))
        self.contents: set[str] = set()
        self.names: dict[str, str] = {}

    @rule(content=CONTENTS, names=st.lists(NAMES, max_size=2), key=CONTENTS)
    def build(self, content: str, names: list[str], key: str) -> None:
        entry = add(self.store, content, *names, key=key)
        self.contents.add(content)
        self.names.update(dict.fromkeys(names, content))
        assert entry.path.read_text() == content

    @rule(content=CONTENTS, name=NAMES)
    def fail_before_it_is_added(self, content: str, name: str) -> None:
        with pytest.raises(LauncherError), start_building(self.store, content) as building:
            (building.workspace / "half").write_text(content)
            building.add(building.workspace / "missing", MANIFEST, [name])

    @rule(content=CONTENTS)
    def die_with_a_manifest_in_place(self, content: str) -> None:
        if content not in self.contents and self.store.images.exists():
            (self.store.images / f"{digest_of(content)}.json").write_text("{}")

    @rule(keep_names=st.booleans())
    def gc(self, keep_names: bool) -> None:
        done = collect(self.store, older_than_s=-1, is_live=lambda _: False, keep_names=keep_names)
        keep = set(self.names.values()) if keep_names else set()
        assert {each.digest for each in done.removed} == {f"sha256:{digest_of(c)}" for c in self.contents - keep}
        self.contents &= keep
        self.names = self.names if keep_names else {}

    @rule(name=NAMES)
    def remove_a_name(self, name: str) -> None:
        (self.store.root / f"{name}.sqsh").unlink(missing_ok=True)
        self.names.pop(name, None)

    @invariant()
    def they_agree(self) -> None:
        assert {entry.path.read_text() for entry in whole(self.store)} == self.contents
        assert self.store.names() == {name: digest_of(content) for name, content in self.names.items()}
        for name, content in self.names.items():
            found = self.store.find(name)
            assert found is not None
            assert found.path.read_text() == content


def test_the_store_agrees_with_a_simple_model(tmp_path: Path) -> None:
    limits = settings(
        max_examples=few(25), stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
    )
    Model.TestCase.settings = limits
    with in_memory(tmp_path) as Model.directories:
        Model.TestCase().runTest()


@pytest.mark.parametrize("packing", [None, pack.RULES - 1, pack.RULES + 1])
def test_an_image_that_other_rules_have_packed_is_not_reused(store: Store, packing: int | None) -> None:
    source = ImageSource(kind="registry", text="x:1", digest=f"sha256:{'ab' * 32}")
    manifest = MANIFEST.model_copy(update={"source": source, "compression": "zstd:3", "packing": packing})
    add(store, "by others", manifest=manifest)
    wanted = ("registry", source.digest, "x86_64", None)
    assert reusable(store, *wanted) is None
    ours = add(store, "by these", manifest=manifest.model_copy(update={"packing": pack.RULES}))
    found = reusable(store, *wanted)
    assert found is not None
    assert found.digest == ours.digest
