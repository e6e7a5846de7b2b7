import json
from dataclasses import replace

import numpy as np
import pytest
from random_bars import random_series

from stockenh.data.bars import Bars
from stockenh.data.features import FeatureSettings, context_features, feature_names
from stockenh.data.fitted import Fitted
from stockenh.data.windows import index_windows
from stockenh.errors import RunFolderError

CHOICE = FeatureSettings()
TRAIN = np.arange(10, 90)


def windows():
    bars = Bars.from_series([("A", *random_series(3, 160)), ("B", *random_series(4, 150))])
    return index_windows(bars, context_features(bars, CHOICE), feature_names(CHOICE), (3, 5, 10), 60)


def hand(context, y_ret):
    names = tuple("abcdef"[: len(context[0])])
    arrays = {"context": np.array(context, np.float32), "y_ret": np.array(y_ret, np.float32)}
    return replace(windows(), context_names=names, **arrays)


def test_statistics_by_hand_and_of_train_rows_alone():
    nan = float("nan")
    data = hand([[1, 7], [3, 7], [99, 99]], [[0.5, nan], [-0.5, 0.0], [9, 9]])
    expected = Fitted(["a", "b"], [2.0, 7.0], [1.0, 1.0], [0.5, 1.0], [0.5, 0.0])
    assert Fitted.fit(data, np.array([0, 1])) == expected
    ties = hand([[0.0]] * 5, [[0.1], [0.2], [0.0], [nan], [-0.1]])
    assert Fitted.fit(ties, np.arange(5)).up_share == pytest.approx([2 / 3]), "no ties, no missing labels"
    data = windows()
    before = Fitted.fit(data, TRAIN)
    others = np.setdiff1d(np.arange(len(data)), TRAIN)
    context, y_ret = data.context.copy(), data.y_ret.copy()
    context[others] += 1000
    y_ret[others] *= -7
    assert Fitted.fit(replace(data, context=context, y_ret=y_ret), TRAIN) == before
    context[TRAIN[0]] += 1
    assert Fitted.fit(replace(data, context=context), TRAIN) != before


def test_standardised_train_features_have_mean_0_and_deviation_1():
    data = windows()
    fitted, train = Fitted.fit(data, TRAIN), data.context[TRAIN]
    scaled = fitted.standardise(train)
    exact = (train.astype(float) - fitted.context_mean) / fitted.context_std
    np.testing.assert_allclose(scaled, exact.clip(-5, 5), atol=1e-4)
    constant = train.std(0) == 0
    assert constant.any()
    assert (scaled[:, constant] == 0).all(), "a constant column is centred and not divided by 0"
    np.testing.assert_allclose(exact[:, ~constant].std(0), 1, rtol=1e-6)


def test_values_are_clipped_at_5_and_json_brings_back_the_same_bits():
    fitted = Fitted(["a"], [1.0], [2.0], [1.0], [0.5])
    context = np.array([[-99], [-9], [1], [5], [11], [1e6]], np.float32)
    kept = context.copy()
    assert fitted.standardise(context)[:, 0].tolist() == [-5, -5, 0, 2, 5, 5]
    np.testing.assert_array_equal(context, kept)
    fitted = Fitted.fit(windows(), TRAIN)
    assert Fitted.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    assert Fitted.from_dict(GOOD).to_dict() == GOOD


GOOD = Fitted(["a", "b"], [0.0, 1.0], [1.0, 2.0], [0.1, 0.2, 0.3], [0.5, 0.5, 0.5]).to_dict()


OTHER = "fitted.json does not hold what stockenh writes: "
WRONG_VALUES = [
    ("context_mean", "abc", "context_mean .*list"),
    ("context_mean", [0.0, "1"], "context_mean.1 .*number"),
    ("context_mean", [0.0, True], "context_mean.1 .*number"),
    ("context_mean", [0.0, float("nan")], "context_mean.1 .*finite"),
    ("return_std", [0.1, 0.2, float("inf")], "return_std.2 .*finite"),
    ("up_share", [0.5, 10**400, 0.5], "up_share.1 .*number"),
    ("context_names", [1, 2], "context_names.0 .*string"),
    ("context_std", [1.0, 0.0], "context_std.1 .*greater than 0"),
    ("return_std", [0.1, -0.2, 0.3], "return_std.1 .*greater than 0"),
    ("extra", [0.5], "extra "),
]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *(({**GOOD, key: wrong}, OTHER + message) for key, wrong, message in WRONG_VALUES),
        ({**GOOD, "context_std": [1.0]}, "context_names and context_std differ in length"),
        ({**GOOD, "up_share": [0.5]}, "return_std and up_share differ in length"),
        *((values, OTHER) for values in (None, [], "x", {}, dict(list(GOOD.items())[:-1]))),
    ],
)
def test_other_json_is_refused(values, message):
    with pytest.raises(RunFolderError, match=message):
        Fitted.from_dict(values)
