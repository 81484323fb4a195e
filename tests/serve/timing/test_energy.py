"""serve.timing.energy on counters laid out in a folder, turned by hand."""

from pathlib import Path

import pytest

from serve.timing import energy


def zone(root: Path, folder_name: str, uj: int, name: str = "package-0", range_uj: int = 1_000_000) -> Path:
    folder = root / "sys/class/powercap" / folder_name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder / "energy_uj"


def test_a_machine_that_counts_nothing_gives_no_number(tmp_path: Path) -> None:
    assert energy.meter("cpu", tmp_path) is None


def test_an_unreadable_counter_gives_no_number(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 0)
    zone(tmp_path, "intel-rapl:1", 0, "package-1").unlink()
    assert energy.meter("cpu", tmp_path) is None


def test_packages_are_summed_and_neither_their_parts_nor_the_whole_machine_is(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 100_000), zone(tmp_path, "intel-rapl:1", 0, "package-1")
    others = [zone(tmp_path, "intel-rapl:0:0", 77_777, "core"), zone(tmp_path, "intel-rapl:2", 99_999, "psys")]
    found = energy.meter("cpu", tmp_path)
    assert found is not None
    source, read = found
    assert source == "rapl"
    before = read()
    for each in others:
        each.write_text("990000")
    first.write_text("350000")
    second.write_text("500000")
    assert read() - before == pytest.approx(0.75)


def test_a_counter_that_starts_again_goes_on(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", 900_000)
    found = energy.meter("cpu", tmp_path)
    assert found is not None
    _, read = found
    before = read()
    for uj, joules in ((100_000, 0.2), (50_000, 1.15), (60_000, 1.16)):
        counter.write_text(str(uj))
        assert read() - before == pytest.approx(joules)


def test_joules_per_image_by_hand() -> None:
    now, spent = [0.0], [0.0]

    def run(seconds: float, watts: float) -> None:
        now[0] += seconds
        spent[0] += seconds * watts

    # Idle at 10 W for 2 s; then 5 calls of 4 images, 0.5 s each, at 30 W: 75 J for 20 images.
    result = energy.per_image(
        lambda: run(0.5, 30), 4, lambda: spent[0], 2.5, clock=lambda: now[0], sleep=lambda seconds: run(seconds, 10)
    )
    assert result == pytest.approx({"joules_per_image": 3.75, "watts": 30, "idle_watts": 10})
