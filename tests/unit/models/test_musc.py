# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""MuSc beyond its figures: what mutual scoring must be whatever the blocks and the precision, and its parts."""

import random

import pytest
import torch

from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.models.musc import MuScModel, mutual
from anomalib_clipzoo.models.musc.features import batches_of
from anomalib_clipzoo.models.musc.interval import Interval, make_interval
from anomalib_clipzoo.models.musc.mutual import compress, mutual_scores, pool_scores
from anomalib_clipzoo.models.musc.rescoring import rescore
from anomalib_clipzoo.models.musc.sets import divide
from tests.tiny import write_tiny_clip

SIDE = 32


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Backbone(write_tiny_clip(tmp_path_factory.mktemp("clip")), None, antialias=False)


@pytest.fixture
def build(clip):
    return lambda **arguments: MuScModel(clip, **arguments).eval()


def draw(count: int, seed: int = 0) -> torch.Tensor:
    """Normalised images with one scene in common."""
    noise = torch.Generator().manual_seed(seed)
    scene = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(99))
    return (scene + torch.randn(count, 3, SIDE, SIDE, generator=noise)) / 2**0.5


def patches(count: int, positions: int = 5, width: int = 16, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(count, positions, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(noise, dim=-1)


def close(given: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(given, expected, atol=atol, rtol=0)


# ---- mutual scoring ----


def by_the_book(features: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """One image at a time: distances to all patches of all others, minima, sorted, averaged."""
    scores = []
    for number, image in enumerate(features):
        others = [other for place, other in enumerate(features) if place != number]
        nearest = torch.stack([torch.cdist(image.double(), other.double()).amin(dim=1) for other in others], dim=1)
        scores.append(nearest.sort(dim=1).values[:, first:last].mean(dim=1))
    return torch.stack(scores).float()


@pytest.mark.parametrize(("products", "table"), [(2**25, 2**28), (100, 2**28), (25, 150), (100, 1), (230, 700)])
@pytest.mark.parametrize("bounds", [(0.0, 0.3), (0.2, 0.6), (0, 1), (0, 99)])
def test_blocks_change_nothing(monkeypatch, products, table, bounds):
    monkeypatch.setattr(mutual, "CACHED", products)
    monkeypatch.setattr(mutual, "TABLE", table)
    features, interval = patches(11), Interval(*bounds)
    close(mutual_scores(features, interval), by_the_book(features, *interval.places(10)))


def test_each_pair_is_multiplied_once_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(mutual, "CACHED", 4 * 5 * 5)  # two images with two others
    multiplied, tables = [], []
    multiply, fill = mutual._products, mutual._fill_table

    def count(features, others):
        found = multiply(features, others)
        multiplied.append(found.numel())
        return found

    def measure(*arguments):
        tables.append(fill(*arguments))
        return tables[-1]

    monkeypatch.setattr(mutual, "_products", count)
    monkeypatch.setattr(mutual, "_fill_table", measure)
    mutual_scores(patches(20), Interval())
    assert max(multiplied) == 100
    assert len(multiplied) == 10 * 11 / 2  # pairs of ten blocks, and each with itself
    monkeypatch.setattr(mutual, "TABLE", 400)  # a fifth of what 20 images would take
    tables.clear()
    mutual_scores(patches(20), Interval())
    assert max(table.numel() for table in tables) == 400


@pytest.mark.parametrize(("precision", "largest", "mean"), [("float16", 1e-3, 3e-4), ("int8", 6e-3, 1.5e-3)])
def test_low_precision_says_nearly_the_same(precision, largest, mean):
    features = patches(9, 20, 128) + 0.1 * patches(1, 20, 128, seed=1)  # patches that have near twins
    features[..., 3] += 1.0  # one channel stands out, as in CLIP
    features = torch.nn.functional.normalize(features, dim=-1)
    error = (mutual_scores(compress(features, precision), Interval()) - mutual_scores(features, Interval())).abs()
    assert 0 < error.max() < largest
    assert error.mean() < mean


def test_low_precision_takes_less_memory(build):
    stored = {p: build(distance_precision=p).encode(draw(2)).patches[0].dtype for p in ("float32", "float16", "int8")}
    assert stored == {"float32": torch.float32, "float16": torch.float16, "int8": torch.float16}
    assert compress(patches(2), "int8").dtype == torch.int8


def test_the_order_of_images_does_not_matter():
    features, order = patches(8), torch.randperm(8)
    close(mutual_scores(features[order], Interval()), mutual_scores(features, Interval())[order])


def test_twins_vouch_for_each_other():
    features = patches(8)
    features[5] = features[2]
    scores = mutual_scores(features, Interval(0, 1))
    assert scores[[2, 5]].max() < 1e-3
    assert scores[[0, 1, 3, 4, 6, 7]].min() > 0.1


def test_an_image_of_the_pool_does_not_vouch_for_itself():
    features = patches(9)
    own = torch.eye(9, dtype=torch.bool)
    for interval in Interval(), Interval(0.2, 0.6), Interval(0, 99):
        close(pool_scores(features, features, interval, own), mutual_scores(features, interval))
    mixed = pool_scores(
        torch.cat([features[:1], patches(2, seed=1)]), features, Interval(), own[[0, 1, 1]] & own[[0, 0, 0]]
    )
    close(mixed[:1], mutual_scores(features, Interval())[:1])
    close(mixed[1:], pool_scores(patches(2, seed=1), features, Interval()))


def test_pool_in_blocks(monkeypatch):
    features, pool = patches(7), patches(6, seed=1)
    whole = pool_scores(features, pool, Interval())
    monkeypatch.setattr(mutual, "PRODUCTS", 2 * 6 * 25)
    close(pool_scores(features, pool, Interval()), whole)


# ---- interval ----


def test_bounds_are_shares_or_numbers_of_images():
    assert Interval(0.0, 0.3).places(83) == (0, 24)
    assert Interval(0.0, 0.7).places(90) == (0, 62)  # 63 times 1 - 1e-16
    assert Interval(0.6, 0.2).places(10) == (2, 6)
    assert Interval(0, 99).places(10) == (0, 10)
    assert Interval(0, 1).places(10) == (0, 1)
    assert Interval(0, 1.0).places(10) == (0, 1)
    assert Interval(0.0, 0.3).smallest() == 4


@pytest.mark.parametrize(
    "bounds", [(0.3,), (0, 0.3, 1), (-0.1, 0.3), (0, 1.5), (0, float("inf")), (0.3, 0.3), (0, float("nan")), (0, 0)]
)
def test_unfit_intervals(bounds):
    with pytest.raises(ValueError, match="two different bounds: shares of the other images"):
        make_interval(bounds)


# ---- sets ----


@pytest.mark.parametrize(
    ("count", "at_most", "sizes"), [(7, 3, [3, 2, 2]), (6, 3, [3, 3]), (6, None, [6]), (6, 6, [6])]
)
def test_sets_are_even(count, at_most, sizes):
    random.seed(1)
    before = random.getstate()
    sets = divide([None] * count, at_most, seed=0)
    assert random.getstate() == before
    assert [len(part) for part in sets] == sizes
    assert sorted(number for part in sets for number in part) == list(range(count))
    assert divide([None] * count, at_most, seed=0) == sets


def test_sets_depend_on_their_seed():
    assert divide([None] * 40, 20, seed=0) != divide([None] * 40, 20, seed=1)
    assert sorted(divide([None] * 40, 20, seed=0)[0]) != list(range(20))


@torch.no_grad()
def test_sets_and_categories_are_scored_apart(build):
    images, kinds = draw(12), [None] * 12
    model = build(set_size=6, rescore_windows=())
    found = model.score_sets(batches_of(images), kinds)
    for part in divide(kinds, 6, seed=0):
        close(found.images[part], build(rescore_windows=())(images[part]).pred_score)
    categories = ["screw", "nut"] * 6
    found = build()(images, categories)
    for start in 0, 1:
        alone = build()(images[start::2])
        close(found.anomaly_map[start::2], alone.anomaly_map)
        close(found.pred_score[start::2], alone.pred_score)


@torch.no_grad()
def test_too_few_images_are_told_before_any_is_read(build):
    def load(numbers):
        raise AssertionError

    with pytest.raises(ValueError, match=r"at least 5 images that score each other, and has 4 .* or a pool"):
        build().score_sets(load, [None] * 4)
    with pytest.raises(ValueError, match="at least 5 images of category 'nut'"):
        build().score_sets(load, ["screw"] * 6 + ["nut"])
    with pytest.raises(ValueError, match="at least 5 images that score each other, and has 3"):
        build(set_size=4).score_sets(load, [None] * 7)
    with pytest.raises(ValueError, match="at least 11 images"):
        build(interval=(0.0, 0.1)).score_sets(load, [None] * 10)
    with pytest.raises(ValueError, match="at least 5 images"):
        build().remember(draw(4), [Reference(None, "a.png")] * 4)


@torch.no_grad()
def test_an_image_that_is_not_finite_is_named(build):
    images = draw(7)
    images[5, 0, 3, 3] = float("nan")
    with pytest.raises(ValueError, match="Image number 5 has features that are not finite"):
        build().score_sets(batches_of(images), [None] * 7)
    with pytest.raises(ValueError, match="None of 7 images can be read"):
        build().score_sets(lambda _: (), [None] * 7)


# ---- rescoring ----


def test_rescoring_by_the_book():
    features, scores = patches(1, 9)[0], torch.rand(9, generator=torch.Generator().manual_seed(0))
    similarity = features @ features.T
    means = []
    for window in (1, 2, 4):
        kept = similarity * (similarity >= similarity.sort(descending=True).values[:, window - 1, None])
        means.append(kept / kept.sum(dim=1, keepdim=True) @ scores)
    close(rescore(scores, features, (1, 2, 4)), torch.stack(means).mean(dim=0))
    close(rescore(scores, features, (1,)), scores)
    close(rescore(scores, features, ()), scores)
    close(rescore(scores, features, (9, 20)), rescore(scores, features, (9,)))


# ---- the model ----


@torch.no_grad()
def test_scores_and_maps_are_within_0_and_1(build):
    output = build()(draw(6))
    for values in output:
        if values is not None:
            assert 0 < values.min() < values.max() < 1
    assert output.anomaly_map.shape == (6, SIDE, SIDE)


@torch.no_grad()
def test_a_pool_gives_its_own_images_the_scores_of_the_set(build):
    images, model = draw(6), build()
    as_set = model(images)
    model.remember(images, [Reference(None, f"{number}.png") for number in range(6)])
    as_single = [model(images[number, None], paths=[f"{number}.png"]) for number in range(6)]
    close(torch.cat([each.anomaly_map for each in as_single]), as_set.anomaly_map)
    close(torch.cat([each.pred_score for each in as_single]), as_set.pred_score)
    twin = model(images[:1], paths=["another.png"])
    assert twin.pred_score < as_set.pred_score[0] - 0.01  # it finds itself


@torch.no_grad()
def test_pools_of_several_categories(build):
    both = build()
    for seed, category in enumerate(("screw", "nut")):
        pool = [Reference(category, f"{category}{number}.png") for number in range(6)]
        both.remember(draw(6, seed), pool)
    images = draw(4, seed=7)
    mixed = both(images, ["nut", "screw", "screw", "nut"])
    for category, rows in (("screw", [1, 2]), ("nut", [0, 3])):
        alone = both(images[rows], [category])
        close(mixed.anomaly_map[rows], alone.anomaly_map)
        close(mixed.pred_score[rows], alone.pred_score)
    assert not torch.allclose(both(images[:1], ["nut"]).pred_score, both(images[:1], ["screw"]).pred_score)


@torch.no_grad()
def test_only_the_tower_runs_in_the_precision_around_it(build):
    model, images = build(), draw(6)
    features = model.encode(images)
    exact = model.scoring.within(features.patches, model.device)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.scoring.within(features.patches, model.device), exact)
        output = model(images)
        assert not torch.equal(output.pred_score, model(images).pred_score.bfloat16().float())
    assert output.pred_score.dtype == output.anomaly_map.dtype == torch.float32
    close(output.pred_score, model(images).pred_score, atol=0.02)


@torch.no_grad()
def test_pools_are_compared_in_single_precision_whatever_is_around(build):
    model = build()
    for seed, category in enumerate(("screw", "nut")):
        model.remember(draw(6, seed), [Reference(category, f"{category}{number}.png") for number in range(6)])
    features = model.encode(draw(4, seed=7))
    for categories in (["nut"], ["nut", "screw", "screw", "nut"]):
        exact = model.score_by_pool(features, categories)
        with torch.autocast("cpu", torch.bfloat16):
            for given, expected in zip(model.score_by_pool(features, categories), exact, strict=True):
                assert torch.equal(given, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r_list": (2,)}, "odd sides of 1 to 7 patches"),
        ({"r_list": (1, 9)}, "an image has 4x4 patches"),
        ({"r_list": ()}, "one or more odd sides"),
        ({"r_list": (-1,)}, "odd sides"),
        ({"rescore_windows": (0, 2)}, "numbers of images from 1"),
        ({"set_size": 1}, "set_size 1 must be at least 2"),
        ({"distance_precision": "float64"}, "distance_precision must be one of float32, float16, int8"),
        ({"release": "paper"}, "release must be one of current, first"),
        ({"layers": (5,)}, "blocks count from 1 to 4"),
        ({"interval": (0, 2.5)}, "two different bounds"),
    ],
    ids=str,
)
def test_unfit_arguments(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
