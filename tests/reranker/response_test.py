"""Click probabilities against enumerated paths and arithmetic by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from harmonrank_jax.reranker import response as response_lib
from tests.reranker import worlds

PATTERNS = np.array(list(itertools.product((False, True), repeat=4)))
POSITIONS = PATTERNS.shape[1]
VISITS = 3  # Slates of a day.
NUM_CATEGORIES = worlds.CATEGORIES

probabilities = jax.jit(response_lib.click_probabilities)
faded = jax.jit(lambda exposures, recovery: response_lib.faded_exposures(
    exposures, num_categories=NUM_CATEGORIES,
    fading=-1 / jnp.log(recovery)))


def all_patterns(seed=0):
  """The same three slates a day; each day has another pattern of clicks."""
  rng = np.random.default_rng(seed)
  days, shape = len(PATTERNS), (VISITS, POSITIONS)
  repeat = lambda values: np.tile(values, (days, *[1] * (values.ndim - 1)))
  where = np.ones(shape, bool)
  where[1, 1] = where[2, 3] = False
  return response_lib.Exposures(
      log_odds=repeat(rng.normal(size=shape).astype(np.float32)),
      categories=repeat(rng.integers(0, NUM_CATEGORIES, shape)),
      similarity=repeat(rng.uniform(0, 1, shape).astype(np.float32)),
      clicks=np.repeat(PATTERNS, VISITS, axis=0),
      dismissed=np.zeros((days * VISITS, POSITIONS), bool),
      where=repeat(where),
      time=repeat(np.array([20.5, 20.5, 27.2], np.float32)),
      day_ids=np.repeat(rng.permutation(days), VISITS))


def shown_before(exposures, recovery):
  """`[R, C]`, one earlier exposure after the other."""
  result = np.zeros((len(exposures.time), NUM_CATEGORIES))
  for now, row in enumerate(result):
    for then in range(now):
      if exposures.day_ids[then] == exposures.day_ids[now]:
        left = recovery ** (float(exposures.time[now]) - exposures.time[then])
        for slot in np.flatnonzero(exposures.where[then]):
          row[exposures.categories[then, slot]] += left
  return result


def look_and_want(response, exposures):
  """Probabilities `[R, K]` to look at a slot, and to click what is seen."""
  response = worlds.arrays(response)
  shown = shown_before(exposures, float(response.recovery))
  look, want = np.zeros((2, *exposures.where.shape))
  for row, slot in zip(*np.nonzero(exposures.where), strict=True):
    category = exposures.categories[row, slot]
    look[row, slot] = response.examination[slot]
    want[row, slot] = special.expit(
        response.scale * exposures.log_odds[row, slot]
        + response.level[category]
        + response.demand[category, int(exposures.time[row])]
        - response.fatigue * shown[row, category]
        - response.redundancy * exposures.similarity[row, slot])
  return look, want


def path_probability(look, want, stop, clicks, looked, left):
  """Probability of one history of a slate, hidden events included."""
  probability, is_here = 1.0, True
  for slot, click in enumerate(clicks):
    if not is_here:
      possible = not (click or looked[slot] or left[slot])
      probability *= possible
      continue
    probability *= look[slot] if looked[slot] else 1 - look[slot]
    clicked = want[slot] if looked[slot] else 0.0
    probability *= clicked if click else 1 - clicked
    leaving = stop if click else 0.0
    probability *= leaving if left[slot] else 1 - leaving
    is_here = not left[slot]
  return probability


def pattern_probabilities(look, want, stop):
  """Probability of each of `PATTERNS`, summed over hidden events."""
  return np.array([
      sum(path_probability(look, want, stop, clicks, looked, left)
          for looked in PATTERNS for left in PATTERNS)
      for clicks in PATTERNS])


def given_above(joint):
  """`[P, K]` probability of a click after the clicks above it."""
  result = np.zeros(PATTERNS.shape)
  for number, pattern in enumerate(PATTERNS):
    for slot in range(POSITIONS):
      same = (PATTERNS[:, :slot] == pattern[:slot]).all(axis=1)
      above = joint[same].sum()
      if above:
        result[number, slot] = joint[same & PATTERNS[:, slot]].sum() / above
  return result


@pytest.mark.parametrize("stop", [0.3, 1e-3, 0.99])
def test_click_probabilities_are_those_of_all_hidden_paths(stop):
  response = worlds.make_response(seed=1, stop=stop)
  exposures = all_patterns()
  result = np.asarray(probabilities(response, exposures)).reshape(
      len(PATTERNS), VISITS, POSITIONS)
  look, want = look_and_want(response, exposures)
  for visit in range(VISITS):
    joint = pattern_probabilities(look[visit], want[visit], stop)
    np.testing.assert_allclose(joint.sum(), 1, rtol=1e-12)
    # A click on what was not shown does not happen; nor is it looked at.
    shown = np.where(exposures.where[visit], PATTERNS, False)
    expected = given_above(joint)[
        (PATTERNS[None] == shown[:, None]).all(-1).argmax(-1)]
    np.testing.assert_allclose(result[:, visit], expected, rtol=3e-5, atol=1e-7)
    of_pattern = np.where(PATTERNS, result[:, visit], 1 - result[:, visit])
    if exposures.where[visit].all():
      np.testing.assert_allclose(of_pattern.prod(-1), joint, rtol=3e-5,
                                 atol=1e-7)
      np.testing.assert_allclose(of_pattern.prod(-1).sum(), 1, rtol=1e-5)


def test_after_a_click_the_next_slot_by_hand():
  exposures = response_lib.Exposures(
      log_odds=np.array([[0, np.log(3)]], np.float32),
      categories=np.zeros((1, 2), int), similarity=np.zeros((1, 2), np.float32),
      clicks=np.array([[True, False]]), dismissed=np.zeros((1, 2), bool),
      where=np.ones((1, 2), bool), time=np.zeros(1, np.float32),
      day_ids=np.zeros(1, int))
  response = worlds.make_response(
      scale=1.0, level=np.zeros(NUM_CATEGORIES),
      demand=np.zeros((NUM_CATEGORIES, worlds.WINDOWS)), stop=0.25,
      examination=[1.0, 0.8])
  result = jax.jit(response_lib.click_probabilities)(response, exposures)
  np.testing.assert_allclose(result, [[0.5, 0.75 * 0.8 * 0.75]], rtol=1e-6)


@pytest.mark.parametrize("recovery", [0.5, 0.97])
def test_faded_exposures_one_by_one(recovery):
  rng = np.random.default_rng(0)
  exposures = all_patterns()
  size = exposures.where.shape
  for _ in range(4):
    times = np.sort(np.round(rng.uniform(0, 30, (len(PATTERNS), VISITS))))
    exposures = exposures._replace(
        categories=rng.integers(0, NUM_CATEGORIES, size),
        where=rng.random(size) < 0.7, time=times.reshape(-1).astype(np.float32))
    result = faded(exposures, recovery)
    expected = shown_before(exposures, recovery)
    np.testing.assert_allclose(result, expected, rtol=2e-5, atol=1e-6)
    assert (result[::VISITS] == 0).all() and expected.max() > 0.9


def test_garbage_where_nothing_was_shown_changes_nothing():
  response, clean = worlds.make_response(), all_patterns()
  clean = clean._replace(clicks=clean.clicks & clean.where)
  garbage = worlds.spoiled(clean)
  result = np.asarray(probabilities(response, garbage))
  np.testing.assert_array_equal(result, probabilities(response, clean))
  assert (result[~clean.where] == 0).all()
  np.testing.assert_array_equal(faded(garbage, 0.9), faded(clean, 0.9))


def test_attraction_by_hand():
  response = worlds.make_response(
      scale=2.0, level=[0.0, 0.5, 0.0, 0.0], fatigue=0.1, redundancy=0.3,
      demand=np.full((NUM_CATEGORIES, worlds.WINDOWS), 0.25))
  result = response_lib.attraction(
      response, jnp.float32(-1.0), jnp.int32(1), response.demand[1, 3],
      jnp.float32(4.0), jnp.float32(0.5))
  np.testing.assert_allclose(
      result, 2.0 * -1.0 + 0.5 + 0.25 - 0.1 * 4 - 0.3 * 0.5, rtol=1e-6)


SHORT = np.zeros((3, POSITIONS))


@pytest.mark.parametrize("change, message", [
    ({"clicks": np.zeros(4, bool)}, r"exposures.clicks has shape \(4,\)"),
    ({"log_odds": SHORT}, r"exposures.log_odds has shape \(3, 4\)"),
    ({"categories": SHORT.astype(int)}, "exposures.categories"),
    ({"similarity": SHORT}, "exposures.similarity"),
    ({"dismissed": SHORT > 0}, "exposures.dismissed"),
    ({"where": SHORT > 0}, "exposures.where"),
    ({"time": np.zeros(3)}, r"exposures.time .*expected \(48,\)"),
    ({"day_ids": np.zeros(3, int)}, "exposures.day_ids")],
    ids=["clicks", "log_odds", "categories", "similarity", "dismissed", "where",
         "time", "day_ids"])
def test_errors_name_the_field(change, message):
  wrong = all_patterns()._replace(**change)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
        response_lib.click_probabilities, worlds.make_response(), wrong)


def test_a_model_of_too_few_positions_is_refused():
  few = worlds.make_response(examination=np.ones(3))
  with pytest.raises(ValueError, match="4 positions, the response 3"):
    jax.eval_shape(response_lib.click_probabilities, few, all_patterns())
