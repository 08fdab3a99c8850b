"""How a `slim` goes, on stages that nobody runs: schedules by hand, and a search among networks whose drop is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_lines import ok

from yoloprune.commands import slim_course, slim_rounds, slim_search, slim_way
from yoloprune.commands.slim_stages import Done, Stage
from yoloprune.errors import ArgumentError, BudgetError, DataError
from yoloprune.planning.paired_bootstrap import Findings
from yoloprune.settings.slim_request import SlimRequest

PARENT = Stage(Path("parent.pt"), {"mAP50": 0.9, "mAP50-95": 0.6}, folder=Path("1-parent"))


class Paper:
    """Stages and work on paper: a cut keeps what it is asked to, and `accuracy` tells mAP from the FLOPs that stay."""

    def __init__(
        self, accuracy: Callable[[float], float], reach: float = 0.0, lands: Mapping[float, float] | None = None
    ) -> None:
        self.accuracy, self.reach = accuracy, reach
        self.lands = lands or {}  # where a cut to some FLOPs of the parent ends instead, as of coarse widths
        self.skipped = 0
        self.did: list[tuple[str, Any]] = []
        self.flops = {"parent.pt": 1.0}
        self.request: Any = None
        self.total = 0

    def run(self, name: str, work: Callable[[Path], Done]) -> Stage:
        self.did.append((name, None))
        try:
            done = work(Path(f"{len(self.did)}-{name}"))
        except BudgetError:
            self.did.pop()
            raise
        return Stage(done.file, done.row, done.found, done.kept, done.more, Path(f"{len(self.did)}-{name}"))

    def skip(self) -> None:
        self.skipped += 1

    def prune(self, part: Path, before: Stage, budgets: dict[str, float]) -> Done:
        share = budgets["flops"] if "flops" in budgets else 1 - budgets.get("ratio", 0)
        left = share * self.flops[str(before.file)]
        left = self.lands.get(round(left, 3), left)
        share = left / self.flops[str(before.file)]
        if left < self.reach:
            raise BudgetError("out of reach")
        self.did[-1] = ("prune", round(left, 4))
        file = part / "pruned.pt"
        self.flops[str(file)] = left
        return Done(file, {}, kept={"flops": share, "params": share, "channels": share})

    def finetune(self, part: Path, pruned: Stage, epochs: int) -> Done:
        file = part / "best.pt"
        self.flops[str(file)] = self.flops[str(pruned.file)]
        self.did[-1] = ("finetune", epochs)
        return Done(file, {"mAP50": 0.9, "mAP50-95": self.accuracy(self.flops[str(file)])})

    def train(self, part: Path, model: Path, epochs: int) -> Done:
        self.did[-1] = ("train", epochs)
        self.flops["trained.pt"] = self.flops[str(model)]
        return Done(Path("trained.pt"), PARENT.row)

    def train_sparse(self, part: Path, model: Path, epochs: int) -> Done:
        self.did[-1] = ("train-sparse", epochs)
        self.flops["sparse.pt"] = 1.0
        return Done(Path("sparse.pt"), {})


def asked(words: str) -> SlimRequest:
    request = ok(f"slim model=a.pt data=b.yaml {words}")
    assert isinstance(request, SlimRequest)
    return request


def follow(paper: Paper, words: str, way: str = "prune") -> slim_course.Outcome:
    paper.request = asked(words)
    return slim_rounds.follow(paper, paper, PARENT, way)  # type: ignore[arg-type]


def test_epochs_are_spread_evenly_and_the_last_trainings_are_the_longer_ones() -> None:
    assert [asked(f"epochs=10 steps={n}").trainings("prune") for n in (1, 3, 4)] == [[10], [3, 3, 4], [2, 2, 3, 3]]


@pytest.mark.parametrize(
    ("words", "way", "epochs"),
    [
        ("epochs=3 steps=2", "train", [1, 1, 1]),
        ("epochs=4 steps=3", "train", [1, 1, 1, 1]),  # half of them before would leave less than one for each round
        ("epochs=9 steps=3", "train", [4, 1, 2, 2]),
        ("epochs=2 max_drop=1", "train", [1, 1]),
        ("epochs=5 max_drop=1", "train", [2, 1, 1, 1]),
        ("epochs=1 max_drop=1", "prune", [1]),
        ("epochs=3", "sparse", [1, 2]),
    ],
)
def test_no_training_is_without_epochs(words: str, way: str, epochs: list[int]) -> None:
    request, paper = asked(words), Paper(lambda _: 0.6)
    assert request.trainings(way) == epochs
    follow(paper, words, way)
    assert [n for name, n in paper.did if name != "prune"] == epochs
    assert slim_way.stages_of(way, request) == len(paper.did)


@pytest.mark.parametrize(("words", "least"), [("epochs=3 steps=3", 4), ("epochs=1 max_drop=1", 2), ("epochs=1", 2)])
def test_fewer_epochs_than_trainings_are_refused_where_the_way_is_known(words: str, least: int) -> None:
    with pytest.raises(ArgumentError, match=f"must be at least {least}, one for each training of way="):
        slim_way.choose(asked(words), trained=False)
    assert slim_way.choose(asked(words), trained=True)[0] == "prune"


def test_schedules_are_those_of_the_books() -> None:
    assert slim_rounds.shares(4, "even") == [0.25, 0.5, 0.75, 1]
    # 1 - (3/4)^3, 1 - (1/2)^3, 1 - (1/4)^3
    assert slim_rounds.shares(4, "cubic") == pytest.approx([37 / 64, 7 / 8, 63 / 64, 1])


def test_a_round_asks_for_what_is_left_to_do() -> None:
    # Half of a cut to 50 % is one to 75 %; of a network that has 80 % of the parent's FLOPs 0.75 / 0.8 stay.
    assert slim_rounds.budgets_at(0.5, {"flops": 0.5}, {"flops": 0.8}) == {"flops": 0.9375}
    # Half of 40 % of the channels are 20 %: of a network that has 90 % of them 1 - 0.8 / 0.9 go.
    assert slim_rounds.budgets_at(0.5, {"ratio": 0.4}, {"channels": 0.9}) == {"ratio": pytest.approx(1 / 9, abs=1e-6)}
    assert slim_rounds.budgets_at(0.5, {"flops": 0.5}, {"flops": 0.75}) == {}  # it is there already


def test_one_round_is_one_cut_and_all_epochs() -> None:
    paper = Paper(lambda _: 0.6)
    found = follow(paper, "flops=0.5 epochs=9")
    assert paper.did == [("prune", 0.5), ("finetune", 9)]
    assert found.parent is PARENT and found.tuned is not None and not found.said


def test_three_rounds_come_to_the_budget() -> None:
    paper = Paper(lambda _: 0.6)
    found = follow(paper, "flops=0.4 steps=3 epochs=10")
    assert paper.did == [
        ("prune", 0.8),
        ("finetune", 3),
        ("prune", 0.6),
        ("finetune", 3),
        ("prune", 0.4),
        ("finetune", 4),
    ]
    assert [r["flops"] for r in found.rounds] == pytest.approx([0.8, 0.6, 0.4], abs=1e-4)


@pytest.mark.parametrize(
    ("lands", "did"),
    [
        # the first cut does the second one's work: three epochs more behind it
        ({0.8: 0.6}, [("prune", 0.6), ("finetune", 6), ("prune", 0.4), ("finetune", 4)]),
        ({0.6: 0.35}, [("prune", 0.8), ("finetune", 3), ("prune", 0.35), ("finetune", 7)]),
        ({0.8: 0.4}, [("prune", 0.4), ("finetune", 10)]),
    ],
    ids=["of the next round", "of the last round", "of all"],
)
def test_a_cut_that_goes_further_is_trained_for_the_rounds_that_it_saves(
    lands: dict[float, float], did: list[Any]
) -> None:
    paper = Paper(lambda _: 0.6, lands=lands)
    found = follow(paper, "flops=0.4 steps=3 epochs=10")
    assert paper.did == did
    assert paper.total == len(did) - 6 and len(found.rounds) == len(did) // 2  # of six stages that were announced


def test_a_first_round_with_next_to_nothing_to_cut_is_left_to_the_second() -> None:
    paper = Paper(lambda _: 0.6)
    follow(paper, "flops=0.9985 steps=2 epochs=10")  # half of it is less than a thousandth
    assert paper.did == [("prune", 0.9985), ("finetune", 10)]


def test_cubic_rounds_take_most_at_first() -> None:
    paper = Paper(lambda _: 0.6)
    follow(paper, "flops=0.2 steps=2 schedule=cubic epochs=4")
    assert [n for name, n in paper.did if name == "prune"] == pytest.approx([1 - 0.8 * 7 / 8, 0.2], abs=1e-4)


def test_a_network_that_is_not_trained_has_half_of_the_epochs_first() -> None:
    paper = Paper(lambda _: 0.6)
    found = follow(paper, "flops=0.5 epochs=15", "train")
    assert paper.did == [("train", 7), ("prune", 0.5), ("finetune", 8)]
    assert found.parent.file == Path("trained.pt")  # which drops are counted from


def test_sparse_training_has_half_of_the_epochs_and_the_dead_go() -> None:
    paper = Paper(lambda _: 0.6)
    paper.prune = lambda part, before, budgets: Done(part / f"{before.file}{budgets}", {})  # type: ignore[method-assign]
    paper.finetune = lambda part, pruned, epochs: Done(part / f"{pruned.file} {epochs}", {})  # type: ignore[method-assign]
    found = follow(paper, "flops=0.5 epochs=15", "sparse")
    assert found.tuned is not None and str(found.tuned.file).endswith("sparse.pt{} 8")


def test_what_fine_tuning_only_takes_from_is_kept_as_it_was_cut() -> None:
    """The first round ends at .50, where the cut had .55; the second is cut from that, and ends above its start."""
    paper, ends = Paper(lambda _: 0.6), iter((0.55, 0.5, 0.4, 0.52))
    key, cut, tune = "mAP50-95", paper.prune, paper.finetune
    started: list[str] = []

    def prune(part: Path, before: Stage, budgets: dict[str, float]) -> Done:
        started.append(before.folder.name)
        done = cut(part, before, budgets)
        return Done(done.file, {key: next(ends)}, kept=done.kept)

    paper.prune = prune  # type: ignore[method-assign]
    paper.finetune = lambda *told: Done(tune(*told).file, {key: next(ends)})  # type: ignore[method-assign]
    found = follow(paper, "flops=0.5 epochs=4 steps=2")
    assert started == ["1-parent", "1-prune"]
    assert [row["folder"] for row in found.rounds] == ["1-prune", "4-finetune"]
    assert not found.worsened and found.final is found.tuned
    ends = iter((0.55, 0.546, 0.4, 0.3))
    found = follow(paper, "flops=0.5 epochs=4 steps=2")
    assert found.rounds[0]["folder"].endswith("finetune")  # so little is noise
    assert found.worsened and found.final is found.pruned and found.final.row[key] == 0.4


# The search -----------------------------------------------------------------------------------------------------------
def test_a_search_goes_on_while_the_drop_holds_and_backs_off_with_half_a_step() -> None:
    # mAP falls by 10 points per FLOP below 60 %: a drop of one point is held down to 50 %.
    paper = Paper(lambda flops: 0.6 - 0.1 * max(0.6 - flops, 0))
    found = follow(paper, "max_drop=1 steps=5 epochs=10")
    # 1 -> 0.7 holds; 0.49 loses 1.1; 0.7 * 0.85 = 0.595 holds; 0.595 * 0.85 = 0.5058 holds; 0.4299 loses 1.7
    assert [n for name, n in paper.did if name == "prune"] == pytest.approx(
        [0.7, 0.49, 0.595, 0.5058, 0.4299], abs=1e-4
    )
    assert [r["held"] for r in found.rounds] == [True, False, True, True, False]
    assert found.tuned is not None and paper.flops[str(found.tuned.file)] == pytest.approx(0.50575)
    assert found.said == ["51% of the FLOPs hold max_drop=1; the epochs are over, and more of them may take it further"]


def test_a_search_with_a_budget_stops_there() -> None:
    paper = Paper(lambda _: 0.6)
    found = follow(paper, "max_drop=1 flops=0.6 epochs=50")
    assert [n for name, n in paper.did if name == "prune"] == [0.7, 0.6]
    assert found.said == ["60% of the FLOPs hold max_drop=1; that is the budget"]
    found = follow(paper, "max_drop=1 flops=0.7 epochs=1")  # as far as the epochs went
    assert found.said == ["70% of the FLOPs hold max_drop=1; that is the budget"]


def test_a_search_that_finds_nothing_says_so_and_leaves_the_parent() -> None:
    paper = Paper(lambda _: 0.1)
    found = follow(paper, "max_drop=1 steps=9 epochs=90")
    assert found.tuned is None and found.pruned is None
    # 30, 15, 7.5 and 3.75 %; the next step would be below 3 %
    assert [n for name, n in paper.did if name == "prune"] == [0.7, 0.85, 0.925, 0.9625]
    assert found.said == ["no cut held max_drop=1; smaller steps are not worth a round"]


def test_what_is_out_of_reach_costs_no_epochs() -> None:
    paper = Paper(lambda _: 0.6, reach=0.6)
    found = follow(paper, "max_drop=1 steps=2 epochs=10")
    # 0.7; 0.49 is out of reach, 0.7 * 0.85 = 0.595 as well, 0.7 * 0.925 is not
    assert paper.did == [("prune", 0.7), ("finetune", 5), ("prune", 0.6475), ("finetune", 5)]
    assert paper.skipped == 2  # whose numbers the next cut takes
    assert found.said[0].startswith("65% of the FLOPs hold")


def test_fewer_epochs_than_rounds_are_as_many_rounds() -> None:
    paper = Paper(lambda _: 0.6)
    follow(paper, "max_drop=1 epochs=2")
    assert [n for name, n in paper.did if name == "finetune"] == [1, 1]


def test_with_confidence_the_end_of_the_interval_counts() -> None:
    """The parent finds all of 100 labels, the network all but the last: the drop is a point, its interval wider."""
    at = np.arange(100)

    def found(n: int) -> Findings:
        some = at[:n]
        return Findings(np.ones((n, 1), dtype=bool), np.ones(n), np.zeros(n), some, np.zeros(100), at, 100)

    parent = Stage(Path(), {"mAP50-95": 0.995}, found(100))
    tuned = Stage(Path(), {"mAP50-95": 0.985}, found(99))
    assert slim_search.holds(parent, tuned, asked("max_drop=1"))[0]
    held, said = slim_search.holds(parent, tuned, asked("max_drop=1 confidence=0.95"))
    assert not held and "95% interval" in said
    assert slim_search.holds(parent, tuned, asked("max_drop=5 confidence=0.95"))[0]
    other = Stage(Path(), {"mAP50-95": 0.985}, None)
    with pytest.raises(ArgumentError, match=r"not validated on the same images\. Give another name="):
        slim_search.holds(parent, other, asked("max_drop=1 confidence=0.9"))


@pytest.mark.parametrize(("had", "words"), [(0.009, "max_drop=0.5"), (0.02, "max_drop=2"), (0.02, "max_drop=5")])
def test_of_a_parent_with_no_more_than_may_be_lost_nothing_is_searched(had: float, words: str) -> None:
    """Its cuts would all hold the drop, down to one that finds nothing."""
    paper = Paper(lambda _: 0.0)
    paper.request = asked(words)
    with pytest.raises(BudgetError, match=rf"the parent itself has mAP50-95 {had:.4f}, .* train it first"):
        slim_rounds.follow(paper, paper, Stage(Path("parent.pt"), {"mAP50-95": had}), "prune")  # type: ignore[arg-type]
    assert paper.did == []


def test_of_a_poor_parent_a_quarter_may_be_lost() -> None:
    parent, kept = Stage(Path(), {"mAP50-95": 0.08}), Stage(Path(), {"mAP50-95": 0.06})
    lost = Stage(Path(), {"mAP50-95": 0.059})
    assert slim_search.holds(parent, kept, asked("max_drop=3"))[0]
    assert not slim_search.holds(parent, lost, asked("max_drop=3"))[0]


def test_an_interval_of_few_images_is_refused_before_anything_is_cut() -> None:
    few = Findings(*(np.zeros(0),) * 6, 4)
    paper = Paper(lambda _: 0.6)
    paper.request = asked("max_drop=1 confidence=0.95")
    with pytest.raises(DataError, match="of 4 validation images there is no interval, it takes 5"):
        slim_rounds.follow(paper, paper, Stage(Path("parent.pt"), PARENT.row, few), "prune")  # type: ignore[arg-type]
    assert paper.did == []


# The way --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "trained", "way"),
    [
        ("", True, "prune"),
        ("", False, "sparse"),
        ("max_drop=1", True, "prune"),
        ("max_drop=1", False, "train"),
        ("latency=0.5", False, "train"),
        ("flops=0.5 params=0.5", False, "train"),
        ("way=sparse", True, "sparse"),
        ("way=prune", False, "prune"),
    ],
)
def test_the_way(words: str, trained: bool, way: str) -> None:
    assert slim_way.choose(asked(words), trained=trained)[0] == way


def test_what_has_no_figure_or_no_classes_to_leave_is_refused() -> None:
    with pytest.raises(ArgumentError, match="counts from a model that knows"):
        slim_way.choose(asked("way=prune max_drop=1"), trained=False)
    with pytest.raises(ArgumentError, match="must come with a trained model"):
        slim_way.choose(asked("way=train classes=person"), trained=True)
