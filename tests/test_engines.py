"""Engines: several workers make what one makes, to the byte, and a worker that is lost costs what it was at and nothing else."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apibench import engines, purifiers
from apibench._torch import torch
from apibench.attacks.loop import AttackSettings
from apibench.attacks.stage import Generated, generate
from apibench.cli import cli
from apibench.engines import EngineSettings
from apibench.engines.job import Failures, chunks, devices
from apibench.environment import differences
from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord, ImageSet, SetWriter
from apibench.purifiers.stage import PurifyJob, purify
from apibench.terminal import run_command
from tests.conftest import paint

COUNT = 6
ATTACK = AttackSettings("mi-di", 8, 2)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("engines") / "clean"
    writer = SetWriter(folder, {"stage": "import"})
    for i in range(COUNT):
        writer.write(f"photo{i}", paint(i, 40, 40 + 8 * (i % 2)), variant="clean", label=i, label_source="given")
    made = writer.finish(f"photo{i}" for i in range(COUNT))
    assert made is not None
    return made


@pytest.fixture(scope="module")
def surrogate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file, so that every process loads the same network."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(importlib.import_module("torchvision.models").squeezenet1_1().state_dict(), path)
    return f"file:squeezenet1_1={path}?size=48"


@pytest.fixture(scope="module")
def alone(clean: ImageSet, surrogate: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set as one worker makes it."""
    out = tmp_path_factory.mktemp("alone") / "adv"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generate(clean, out, ATTACK, [surrogate])
    finally:
        torch.set_num_threads(threads)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def on(engine: EngineSettings, clean: ImageSet, out: Path, surrogate: str) -> Generated:
    return generate(clean, out, ATTACK, [surrogate], engine=engine)


def record(id: str, height: int, width: int) -> ImageRecord:
    sha = "0" * 64
    return ImageRecord(id, f"{id}.png", sha, sha, width, height, None, None, sha, "clean")


@given(st.lists(st.sampled_from([(4, 4), (4, 5), (5, 4)]), max_size=30), st.integers(1, 7))
def test_chunks_are_of_one_size_and_hold_every_image_once(sizes: list[tuple[int, int]], size: int) -> None:
    records = [record(f"r{i}", *size_) for i, size_ in enumerate(sizes)]
    found = list(chunks(records, size))
    assert sorted(r.id for chunk in found for r in chunk) == sorted(r.id for r in records)
    assert all(1 <= len(chunk) <= size and len({(r.height, r.width) for r in chunk}) == 1 for chunk in found)
    for shape in set(sizes):
        alike = [chunk for chunk in found if (chunk[0].height, chunk[0].width) == shape]
        assert all(len(chunk) == size for chunk in alike[:-1]), "only the last of a size is not full"
        assert [r for chunk in alike for r in chunk] == [r for r in records if (r.height, r.width) == shape]


def test_a_gpu_without_a_number_means_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices("cuda", None) == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices("cuda", 4) == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert devices("cuda:1", None) == ["cuda:1"]
    assert devices("cpu", None) == ["cpu"]
    assert devices("cpu", 3) == ["cpu"] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices("cuda", None) == ["cuda"]


def test_two_processes_make_the_bytes_of_one(clean: ImageSet, alone: Path, surrogate: str, tmp_path: Path) -> None:
    made = on(EngineSettings(workers=2, threads=1), clean, tmp_path / "adv", surrogate)
    assert made.made == COUNT
    assert files(tmp_path / "adv") == files(alone)


@pytest.mark.parametrize("begun", [0, 1, 4])
def test_a_chunk_is_filled_up_so_that_where_it_went_on_makes_no_difference(
    begun: int, clean: ImageSet, surrogate: str, tmp_path: Path
) -> None:
    generate(clean, tmp_path / "whole", ATTACK, [surrogate], chunk=2)
    generate(clean, tmp_path / "parts", ATTACK, [surrogate], chunk=2)
    for i in range(begun, COUNT):
        (tmp_path / "parts" / f"photo{i}.json").unlink()
    again = generate(clean, tmp_path / "parts", ATTACK, [surrogate], chunk=2)
    assert again.made == COUNT - begun
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    with pytest.raises(ApibenchError, match="chunk: 2 there, null now"):
        generate(clean, tmp_path / "parts", ATTACK, [surrogate])


def test_an_image_that_cannot_be_read_is_left_out_of_its_chunk(clean: ImageSet, surrogate: str, tmp_path: Path) -> None:
    lame = SetWriter(tmp_path / "clean", {"stage": "import"})
    for i in range(4):
        lame.write(f"photo{i}", paint(i), variant="clean", label=i)
    images = lame.finish(f"photo{i}" for i in range(4))
    assert images is not None
    images.path(images.records[1]).write_bytes(b"not a PNG")
    made = generate(images, tmp_path / "adv", ATTACK, [surrogate], chunk=4)
    assert [id for id, _ in made.failed] == ["photo1"]
    assert made.images is not None
    assert [r.id for r in made.images.records] == ["photo0", "photo2", "photo3"]


@dataclass(frozen=True)
class Deadly:
    """A job that writes a file an image; at ``photo2`` the worker is killed, ``times`` over."""

    out: Path
    times: int = 1
    title: str = "deadly"
    chunk: int = 1

    def begin(self, device: str) -> Deadly:
        (self.out / f"begun-{os.getpid()}").touch()
        return self

    def make(self, records: Sequence[ImageRecord]) -> Failures:
        for record in records:
            if record.id == "photo2":
                killed = len(list(self.out.glob("killed-*")))
                if killed < self.times:
                    (self.out / f"killed-{killed}").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            if record.id == "photo4":
                return [(record.id, "photo4.png: cannot be read")]
            (self.out / f"{record.id}.json").write_text("{}")
        return []


@dataclass(frozen=True)
class Hopeless:
    """A job that cannot be begun, or that fails."""

    out: Path
    error: str
    title: str = "hopeless"
    chunk: int = 1

    def begin(self, device: str) -> Hopeless:
        if self.error == "begin":
            raise ApibenchError("net.pth: not there")
        return self

    def make(self, records: Sequence[ImageRecord]) -> Failures:
        if self.error == "disk":
            raise OSError(28, "No space left on device", str(self.out))
        raise KeyError("odd")


RECORDS = [record(f"photo{i}", 8, 8) for i in range(COUNT)]


def test_a_killed_process_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ApibenchError, match=r"a worker's process ended.*kept"):
        engines.run(Deadly(tmp_path), RECORDS, EngineSettings(workers=2, threads=1))
    assert engines.run(Deadly(tmp_path), RECORDS, EngineSettings(workers=2)) == [
        ("photo4", "photo4.png: cannot be read")
    ]
    assert (tmp_path / "photo2.json").is_file()


IN_TWO_PROCESSES = """
import signal
import sys
from pathlib import Path
from apibench import engines
from apibench.engines import EngineSettings
from tests.test_engines import RECORDS, Patient
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests run in the background of a shell
    engines.run(Patient(Path(sys.argv[1])), RECORDS, EngineSettings(workers=2, threads=1))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_do_not_outlive_who_they_work_for(how: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C, which reaches a terminal's whole group, and kill -9, which reaches one process: workers end in mid-image."""
    (tmp_path / "main.py").write_text(IN_TWO_PROCESSES)
    command = [sys.executable, str(tmp_path / "main.py"), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as parent:
        try:
            until = time.monotonic() + 120
            while len(at := list(tmp_path.glob("at-*"))) < 2 and time.monotonic() < until and parent.poll() is None:
                time.sleep(0.05)
            assert len(at) == 2
            if how is signal.SIGINT:
                os.killpg(parent.pid, how)
            else:
                parent.kill()
            said = parent.communicate(timeout=60)[1].decode()
        except BaseException:
            os.killpg(parent.pid, signal.SIGKILL)
            raise
    if how is signal.SIGINT:
        assert said.strip().endswith("KeyboardInterrupt")
    pids = [path.name.split("-")[2] for path in at]
    until = time.monotonic() + 60
    while any(running(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(running(pid) for pid in pids)
    assert len(list(tmp_path.glob("at-*"))) == 2, "no other image was begun"


def running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_without_ray_its_engine_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(ApibenchError, match=r"Ray is not installed.*pip install"):
        EngineSettings("ray")
    assert EngineSettings("local").name == "local"


def test_purify_leaves_the_callers_purifier_where_it_is(clean: ImageSet, tmp_path: Path) -> None:
    smooth = purifiers.create("gaussian", 1)
    job = PurifyJob(clean.folder, tmp_path, smooth, smooth.settings(), 0, {"stage": "purify"})
    assert job.begin("cpu").purifier is not smooth


@pytest.mark.parametrize(("error", "kind"), [("begin", ApibenchError), ("disk", OSError)])
def test_what_a_process_raises_is_raised_here(error: str, kind: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(kind, match=r"not there|No space"):
        engines.run(Hopeless(tmp_path, error), RECORDS, EngineSettings(workers=2))


def test_machines_that_differ_are_named() -> None:
    records = [
        ImageRecord(**{**vars(record(f"r{i}", 8, 8)), "device": device, "versions": {"torch": torch_}})
        for i, (device, torch_) in enumerate(
            [("cpu (AVX2)", "2.13.0"), ("cpu (AVX2)", "2.13.0"), ("cpu (AVX512)", "2.11.0")]
        )
    ]
    assert differences(records[:2]) == []
    assert differences(records) == [
        "device: cpu (AVX2) for 2 images, cpu (AVX512) for 1 images",
        "torch: 2.13.0 for 2 images, 2.11.0 for 1 images",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--address", "head:6379"], "only a Ray cluster has one"),
        (["--engine", "spark"], "'spark' is not one of"),
        (["--workers", "0"], "0 is not in the range"),
    ],
)
def test_wrong_engines_are_told_in_a_line(
    arguments: list[str], said: str, clean: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["purify", "--images", str(clean.folder), "--out", str(tmp_path / "out"), "--purifier", "median"]
    assert run_command(cli, [*common, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# A cluster of two machines, as Ray's own tests have it: two of everything, on this one.


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    with pytest.MonkeyPatch.context() as patch:
        _let_ray_work(patch)
        utils = importlib.import_module("ray.cluster_utils")
        try:
            made = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
            for _ in range(2):
                made.add_node(num_cpus=1)
        except Exception as error:  # Ray's own start, before anything of ours: it gives up on a machine that is busy
            if "timed out during startup" not in str(error):
                raise
            pytest.skip(f"Ray cannot start a cluster here: {error!s:.80}")
        yield made
        made.shutdown()


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the other tests' guard: Ray's parts talk to each other by this machine's own address."""
    _let_ray_work(monkeypatch)


def _let_ray_work(patch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy"):
        patch.delenv(name, raising=False)
        patch.delenv(name.upper(), raising=False)
    patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # where workers find the jobs of this file


def ray_at(cluster: Any, **about: Any) -> EngineSettings:
    return EngineSettings("ray", threads=1, address=cluster.address, **about)


def test_two_workers_of_a_cluster_make_the_bytes_of_one(
    cluster: Any, clean: ImageSet, alone: Path, surrogate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths go by the folder the command was started in
    made = on(ray_at(cluster), clean, Path("adv"), surrogate)
    assert made.made == COUNT
    assert files(tmp_path / "adv") == files(alone)
    smooth = purifiers.create("gaussian", 2)
    torch.set_num_threads(1)
    purify(made.images or clean, tmp_path / "one", smooth)
    purify(made.images or clean, tmp_path / "two", smooth, engine=ray_at(cluster))
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_lost_worker_costs_its_current_image_only(cluster: Any, tmp_path: Path) -> None:
    failed = engines.run(Deadly(tmp_path), RECORDS, ray_at(cluster, workers=1))
    assert failed == [("photo4", "photo4.png: cannot be read")]
    made = {path.stem for path in tmp_path.glob("photo*.json")}
    assert made == {"photo0", "photo1", "photo2", "photo3", "photo5"}
    assert len(list(tmp_path.glob("killed-*"))) == 1
    assert len(list(tmp_path.glob("begun-*"))) == 2


def test_an_image_that_kills_every_worker_is_given_up(cluster: Any, tmp_path: Path) -> None:
    failed = dict(engines.run(Deadly(tmp_path, times=99), RECORDS, ray_at(cluster)))
    assert failed["photo2"] == "photo2.png: 3 workers were lost while they were at it"
    assert {path.stem for path in tmp_path.glob("photo*.json")} == {"photo0", "photo1", "photo3", "photo5"}


def test_of_a_chunk_that_kills_workers_only_the_image_is_given_up_that_does(cluster: Any, tmp_path: Path) -> None:
    failed = dict(engines.run(Deadly(tmp_path, times=99, chunk=6), RECORDS, ray_at(cluster)))
    assert set(failed) == {"photo2", "photo4"}
    assert {path.stem for path in tmp_path.glob("photo*.json")} == {"photo0", "photo1", "photo3", "photo5"}


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        ("begin", ApibenchError, r"worker on .*: net\.pth: not there"),
        ("odd", ApibenchError, "a worker failed: KeyError: 'odd'"),
    ],
)
def test_what_a_worker_raises_is_raised_here(
    error: str, kind: type[Exception], said: str, cluster: Any, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said):
        engines.run(Hopeless(tmp_path, error), RECORDS, ray_at(cluster))


@dataclass(frozen=True)
class Patient:
    """A job whose first images wait until a machine is gone."""

    out: Path
    title: str = "patient"
    chunk: int = 1

    def begin(self, device: str) -> Patient:
        return self

    def make(self, records: Sequence[ImageRecord]) -> Failures:
        (one,) = records
        (self.out / f"at-{one.id}-{os.getpid()}").touch()
        while not (self.out / "gone").exists():
            time.sleep(0.05)
        (self.out / f"{one.id}.json").write_text("{}")
        return []


def test_a_machine_that_goes_away_costs_its_current_image_only(cluster: Any, tmp_path: Path) -> None:
    """Last of this cluster's tests: one of its machines is gone after it."""

    def lose_one() -> None:
        until = time.monotonic() + 90
        while len(list(tmp_path.glob("at-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        driver = importlib.import_module(
            "ray._private.worker"
        ).global_worker.node  # which the others may be lost without
        lost = next(node for node in cluster.worker_nodes if node._raylet_socket_name != driver._raylet_socket_name)
        cluster.remove_node(lost, allow_graceful=False)
        pids = [path.name.split("-")[2] for path in tmp_path.glob("at-*")]
        while all(Path(f"/proc/{pid}/cmdline").is_file() for pid in pids) and time.monotonic() < until:
            time.sleep(0.05)  # its worker lives on for a moment, and could still be done
        (tmp_path / "gone").touch()

    thread = threading.Thread(target=lose_one, daemon=True)
    thread.start()
    assert engines.run(Patient(tmp_path), RECORDS, ray_at(cluster, workers=2)) == []
    thread.join(120)
    assert {path.stem for path in tmp_path.glob("*.json")} == {r.id for r in RECORDS}
    attempts = [path.name.split("-")[1] for path in tmp_path.glob("at-*")]
    assert len(attempts) == COUNT + 1, "one image was begun a second time"


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:99999", "no.such.host.invalid:6379"])
def test_no_cluster_at_an_address_is_told_in_a_line(address: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    with pytest.raises(ApibenchError, match=rf"no cluster at {address}: "):
        engines.run(Deadly(tmp_path), RECORDS, EngineSettings("ray", address=address))


def test_what_the_manifest_says_of_the_machine(alone: Path) -> None:
    for line in (alone / "manifest.jsonl").read_text().splitlines():
        about = json.loads(line)
        assert about["threads"] == 1
        assert about["device"] == f"cpu ({torch.backends.cpu.get_cpu_capability()})"
