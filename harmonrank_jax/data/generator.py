"""The embedded data set: a week of a shop's home page, with known truth.

Every request shows 10 to 30 items of ten uneven categories; a row is an
exposure with six behaviours and six predicted scores. The probability of every
behaviour is known (`true_<objective>`), and with it the best score any
ensemble can reach.

How a behaviour comes about (probabilities multiply down the funnel):
  click     = examination(position) * sigmoid(attraction)
  long_view = click * sigmoid(...), like, comment, follow, buy likewise
Attraction is taste (user and item factors) + quality of the item + demand for
the category at this hour - fatigue from the category's recent exposures. Each
further behaviour mixes taste with a social and a commercial propensity of the
user and the item, so that all six are correlated.

Each predictor sees what it is built for, the rest dimly, and neither fatigue
nor position. Its error grows with the rarity of the behaviour and for new
users, is partly shared by all objectives, shifted by device and region, and
miscalibrated by a slope and an offset of its own.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy import special

from harmonrank_jax.data import schema as schema_lib

# Rates per exposure. Click, long view and the four rare ones together as
# KuaiRand publishes for its standard policy: 45.1 %, 31.8 % and 2.1 % (Gao et
# al., CIKM 2022); within the rare ones like outnumbers comment, follow and
# buy, the last one in a thousand.
OBJECTIVES = ("click", "long_view", "like", "comment", "follow", "buy")
# Roles of the columns. The true probabilities, and the position, which is not
# known before the page is made, are no features.
SCHEMA = schema_lib.Schema(
    objectives=tuple(
        schema_lib.Objective(name, name, schema_lib.SCORE_PREFIX + name)
        for name in OBJECTIVES),
    user="user_id", item="item_id", time="time_ms", request="request_id",
    categorical=("age", "device", "region", "activity"),
    numeric=("tenure_days", "visits_per_day"))
RATES = (0.45, 0.32, 0.015, 0.004, 0.002, 0.001)
# Regulars are shown much: clicks and long views as in KuaiRand's random log.
RATES_OF_REGULARS = (0.176, 0.085, *RATES[2:])

WORLDS = ("default", "independent", "perfect", "regulars")

# One main category, five core ones and four others.
CATEGORIES = ("phones", "laptops", "tablets", "consoles", "cameras", "audio",
              "watches", "books", "clothing", "toys")
_CATEGORY_WEIGHTS = (0.30, 0.14, 0.11, 0.09, 0.08, 0.08, 0.07, 0.05, 0.05,
                     0.03)
_AGES = ("18-23", "24-30", "31-40", "41-50", "51+")
_DEVICES = ("android", "ios", "web")
_REGIONS = ("north", "east", "south", "west", "centre", "abroad")
_ACTIVITY = ("low", "middle", "high", "full")

NUM_FEATURES = 32
_FACTORS = 8
_DAY_MS = 24 * 3600 * 1000
# Monday, 2026-01-05 00:00 UTC.
_START_MS = 1_767_571_200_000
# Requests by hour: a quiet night, a rise at noon, a peak at nine in the
# evening, as in any consumer application.
_HOURS = (3, 2, 1, 1, 1, 1, 2, 4, 5, 5, 5, 6, 8, 7, 6, 5, 5, 6, 7, 9, 11, 12,
          9, 6)

# How the causes enter each behaviour (after a click, but for the click): log-
# odds per standard deviation. Comment and follow are social, buy is
# commercial, comment partly so (people ask before they buy).
_CAUSES = ("taste", "quality", "demand", "social", "commercial")
_EFFECTS = np.array((
    (1.0, 0.6, 1.0, 0.0, 0.2),  # click
    (0.8, 0.3, 0.0, 0.2, 0.1),  # long_view
    (0.7, 0.3, 0.0, 0.7, 0.1),  # like
    (0.4, 0.3, 0.0, 0.9, 0.5),  # comment
    (0.5, 0.3, 0.0, 1.0, 0.1),  # follow
    (0.6, 0.3, 0.0, 0.0, 1.1)))  # buy
# What the predictor of each behaviour is built for; it sees the rest dimly.
_FOCUS = (
    ("taste", "quality", "demand"), ("taste", "quality"), ("taste", "social"),
    ("social", "commercial"), ("taste", "social"), ("quality", "commercial"))
_DIM = 0.4
# Correlation of comment and buy beyond their probabilities (of the normal
# variables that decide them).
_COMMENT_BUY = 0.4

# Scores: the error in log-odds has standard deviation 0.45 for a behaviour of
# rate 1 and grows with rarity by the power 1/8 (a predictor of buy has seen a
# five-hundredth of the positives of click), and with newness up to 2.5 times;
# half its variance is common to all objectives. Then shifts by device and
# region, slopes and offsets.
_ERROR, _ERROR_POWER = 0.45, 1 / 8
_ERROR_OF_NEW, _NEW_DAYS = 2.5, 30.0
_SHARED_ERROR = 0.5
_GROUP_SHIFT = 0.4
_SLOPES = (1.3, 0.8, 1.2, 0.7, 0.9, 0.6)
_OFFSETS = (-0.3, 0.4, 0.5, -0.5, 0.8, 1.0)

# Log-odds that an exposure of the category costs, of those fresh in mind, and
# the spread of a category's demand over the day. Regulars see so many pages
# that each exposure tires less.
_FATIGUE, _FATIGUE_OF_REGULARS = 0.25, 0.1
_DEMAND, _DEMAND_OF_REGULARS = 0.4, 0.6
# Spread over categories of the error in the predicted click of regulars, and
# the share of their exposures without a click that they dismiss.
_CATEGORY_SHIFT = 0.6
_DISMISSED = 0.02


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """What to generate.

  Worlds beside "default": "independent", where behaviours have nothing to do
  with each other nor with the profile, and a score errs on its own; "perfect",
  the default week with the true probabilities as scores. In these two no
  ensemble can beat the closed form on calibrated scores. "regulars", a
  twentieth of the users, each with 14 visits a day on average, who dismiss
  some of the items they do not click; the predicted click knows neither the
  hour nor how attractive a category is as such. It is for policies that act on
  the whole day of a user.
  """

  num_exposures: int = 200_000  # Rows of the log, at least 1,000.
  seed: int = 0  # Another one is another population, catalogue and week.
  world: str = "default"

  def __post_init__(self):
    if self.num_exposures < 1000:
      raise ValueError(
          f"num_exposures must be at least 1000, got {self.num_exposures}.")
    if self.world not in WORLDS:
      raise ValueError(
          f"world must be one of {', '.join(WORLDS)}, got {self.world!r}.")


class EmbeddedLog(NamedTuple):
  """A generated week."""

  # One row an exposure, sorted by time: `user_id`, `item_id`, `request_id`,
  # `time_ms`, `position` (0 = top), `category`; the profile `age`, `device`,
  # `region`, `activity` (text), `tenure_days`, `visits_per_day`; six labels
  # (int8), six `score_*` (float32) and six `true_*` (float32, the probability
  # the label was drawn with). Regulars also have `dismissed` (int8).
  log: pa.Table
  # One row an item: `item_id`, `category`, `features` (a list of 32 float32, of
  # unit length).
  items: pa.Table


class _Users(NamedTuple):
  factors: np.ndarray  # [U, F]
  social: np.ndarray  # [U]
  commercial: np.ndarray  # [U]
  age: np.ndarray  # [U] index
  device: np.ndarray  # [U] index
  region: np.ndarray  # [U] index
  tenure: np.ndarray  # [U] days
  visits: np.ndarray  # [U] expected requests a day


class _Items(NamedTuple):
  factors: np.ndarray  # [I, F]
  quality: np.ndarray  # [I]
  social: np.ndarray  # [I]
  commercial: np.ndarray  # [I]
  category: np.ndarray  # [I] index
  features: np.ndarray  # [I, 32]


class _Exposures(NamedTuple):
  user: np.ndarray  # [N]
  item: np.ndarray  # [N]
  request: np.ndarray  # [N]
  time_ms: np.ndarray  # [N]
  position: np.ndarray  # [N]


def generate_log(config: LogConfig) -> EmbeddedLog:
  """Generates a week of exposures; the same config gives the same bytes.

  >>> week = generate_log(LogConfig(num_exposures=1000))
  >>> week.log.num_rows
  1000
  """
  rng = np.random.default_rng([config.seed, 0])
  regulars = config.world == "regulars"
  users = _make_users(
      rng, max(20, config.num_exposures // (2000 if regulars else 100)))
  items = _make_items(rng, max(400, config.num_exposures // 40))
  amplitude = _DEMAND_OF_REGULARS if regulars else _DEMAND
  demand = amplitude * rng.normal(size=(len(CATEGORIES), 1)) * np.cos(
      2 * np.pi * (np.arange(24) - rng.uniform(0, 24, (len(CATEGORIES), 1)))
      / 24)
  exposures = _make_exposures(rng, users, items, config.num_exposures)
  if config.world == "independent":
    seen, truth = _independent_truth(rng, config.num_exposures)
    errors = 0.8 * rng.normal(size=seen.shape)
  else:
    seen, truth = _funnel_truth(
        users, items, exposures, demand, regulars=regulars)
    errors = _score_errors(rng, users, exposures.user)
  if regulars:
    shift = _CATEGORY_SHIFT * rng.normal(size=len(CATEGORIES))
    errors[:, 0] += shift[items.category[exposures.item]]
  labels = _draw_labels(rng, truth, funnel=config.world != "independent")
  log_odds = np.asarray(_SLOPES) * (seen + errors) + np.asarray(_OFFSETS)
  scores = truth if config.world == "perfect" else special.expit(log_odds)
  log = _log_table(users, items, exposures, labels, scores, truth)
  if regulars:
    dismissed = ~labels[:, 0] & (rng.random(len(labels)) < _DISMISSED)
    log = log.append_column("dismissed", pa.array(dismissed.astype(np.int8)))
  return EmbeddedLog(log, _item_table(items))


def _make_users(rng: np.random.Generator, count: int) -> _Users:
  age = rng.choice(len(_AGES), count, p=(0.25, 0.3, 0.25, 0.13, 0.07))
  # Taste and propensities lean by age, which makes the profile informative.
  lean = 0.5 * rng.normal(size=(len(_AGES), _FACTORS))
  return _Users(
      factors=lean[age] + rng.normal(size=(count, _FACTORS)),
      social=0.3 * (2.0 - age) + rng.normal(size=count),
      commercial=0.3 * (age - 2.0) + rng.normal(size=count),
      age=age,
      device=rng.choice(len(_DEVICES), count, p=(0.6, 0.3, 0.1)),
      region=rng.choice(
          len(_REGIONS), count, p=(0.2, 0.3, 0.25, 0.12, 0.1, 0.03)),
      tenure=rng.exponential(180.0, count).astype(np.int32),
      visits=rng.lognormal(0.0, 0.8, count))


def _make_items(rng: np.random.Generator, count: int) -> _Items:
  category = rng.choice(len(CATEGORIES), count, p=_CATEGORY_WEIGHTS)
  centres = rng.normal(size=(len(CATEGORIES), _FACTORS))
  factors = 0.7 * centres[category] + 0.7 * rng.normal(size=(count, _FACTORS))
  # What a content model would make of the item: its factors, mixed and noisy.
  mixing = rng.normal(size=(_FACTORS, NUM_FEATURES)) / np.sqrt(_FACTORS)
  features = factors @ mixing + 0.3 * rng.normal(size=(count, NUM_FEATURES))
  return _Items(
      factors=factors, quality=rng.normal(size=count),
      social=rng.normal(size=count), commercial=rng.normal(size=count),
      category=category,
      features=features / np.linalg.norm(features, axis=1, keepdims=True))


def _make_exposures(
    rng: np.random.Generator, users: _Users, items: _Items, count: int
) -> _Exposures:
  """Requests by the day's curve, filled by a plausible logging policy."""
  sizes = _request_sizes(rng, count)
  num_requests = len(sizes)
  user = rng.choice(
      len(users.visits), num_requests, p=users.visits / users.visits.sum())
  hour = rng.choice(24, num_requests, p=np.asarray(_HOURS) / sum(_HOURS))
  time_ms = (_START_MS + rng.integers(7, size=num_requests) * _DAY_MS
             + hour * 3_600_000 + rng.integers(3_600_000, size=num_requests))
  order = np.argsort(time_ms, kind="stable")
  user, time_ms = user[order], time_ms[order]

  request = np.repeat(np.arange(num_requests), sizes)
  item = _candidates(rng, users, items, user[request], request)
  # The page is sorted by a rough idea of taste and quality.
  rough = (_taste(users, items, user[request], item) + items.quality[item]
           + rng.gumbel(size=count))
  by_rough = np.lexsort((-rough, request))
  starts = np.cumsum(sizes) - sizes
  return _Exposures(
      user=user[request], item=item[by_rough], request=request,
      time_ms=time_ms[request],
      position=np.arange(count) - starts[request])


def _request_sizes(rng: np.random.Generator, count: int) -> np.ndarray:
  """Sizes of 10 to 30 that sum to `count`."""
  sizes = rng.integers(10, 31, count // 20)
  while (gap := count - sizes.sum()) != 0:
    room = np.flatnonzero(sizes < 30 if gap > 0 else sizes > 10)
    chosen = rng.permutation(room)[:abs(gap)]
    sizes[chosen] += np.sign(gap)
  return sizes


def _candidates(
    rng: np.random.Generator, users: _Users, items: _Items,
    user: np.ndarray, request: np.ndarray,
) -> np.ndarray:
  """Items for every row, no item twice in a request."""
  # Three candidate channels: the user's two favourite categories, and all.
  centres = np.stack([items.factors[items.category == c].mean(axis=0)
                      if (items.category == c).any() else np.zeros(_FACTORS)
                      for c in range(len(CATEGORIES))])
  favourites = np.argsort(-users.factors @ centres.T, axis=1)[:, :2]
  by_category = np.argsort(items.category, kind="stable")
  sizes = np.bincount(items.category, minlength=len(CATEGORIES))
  starts = np.cumsum(sizes) - sizes
  item = np.empty(len(user), np.int64)
  open_rows = np.arange(len(user))
  while len(open_rows):
    channel = rng.integers(4, size=len(open_rows))
    category = favourites[user[open_rows], np.minimum(channel, 1)]
    low = np.where(channel < 2, starts[category], 0)
    size = np.where(channel < 2, sizes[category], len(items.category))
    size = np.maximum(size, 1)
    # Popular items first: a square bends the draw towards the front.
    drawn = low + (size * rng.random(len(open_rows)) ** 2).astype(np.int64)
    item[open_rows] = by_category[np.minimum(drawn, len(by_category) - 1)]
    order = np.lexsort((item, request))
    twice = (np.diff(item[order]) == 0) & (np.diff(request[order]) == 0)
    open_rows = order[1:][twice]
  return item


def _taste(
    users: _Users, items: _Items, user: np.ndarray, item: np.ndarray
) -> np.ndarray:
  """Inner product of factors, of about unit spread."""
  return np.einsum(
      "nf,nf->n", users.factors[user], items.factors[item]) / np.sqrt(
          1.2 * _FACTORS)


def _funnel_truth(
    users: _Users, items: _Items, exposures: _Exposures, demand: np.ndarray,
    *, regulars: bool,
) -> tuple[np.ndarray, np.ndarray]:
  """Log-odds as predictors see them, and true probabilities `[N, M]`."""
  user, item = exposures.user, exposures.item
  hour = exposures.time_ms // 3_600_000 % 24
  causes = np.stack([
      _taste(users, items, user, item),
      items.quality[item],
      demand[items.category[item], hour],
      (users.social[user] + items.social[item]) / np.sqrt(2),
      (users.commercial[user] + items.commercial[item]) / np.sqrt(2)], axis=1)
  rates = RATES_OF_REGULARS if regulars else RATES
  attraction = causes @ _EFFECTS.T
  fatigue = _FATIGUE_OF_REGULARS if regulars else _FATIGUE
  tired = fatigue * _recent_exposures(exposures, items.category[item])
  examination = 1 / (1 + 0.03 * exposures.position)
  click = _calibrated(attraction[:, 0] - tired, examination, rates[0])
  truth = np.stack([click] + [
      _calibrated(attraction[:, m], click, rates[m])
      for m in range(1, len(OBJECTIVES))], axis=1)

  seen = []
  for m, focus in enumerate(_FOCUS):
    sight = np.where(np.isin(_CAUSES, focus), 1.0, _DIM)
    if regulars:
      sight[_CAUSES.index("demand")] = 0.0
    aim = _calibrated(
        (causes * sight) @ _EFFECTS[0], np.ones(len(user)), rates[0])
    if m:
      aim = _calibrated((causes * sight) @ _EFFECTS[m], aim, rates[m])
    seen.append(special.logit(aim))
  return np.stack(seen, axis=1), truth


def _independent_truth(
    rng: np.random.Generator, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Every behaviour a world of its own, the profile without meaning."""
  spread = rng.normal(size=(count, len(OBJECTIVES)))
  truth = np.stack([_calibrated(spread[:, m], np.ones(count), RATES[m])
                    for m in range(len(OBJECTIVES))], axis=1)
  return special.logit(truth), truth


def _recent_exposures(
    exposures: _Exposures, category: np.ndarray
) -> np.ndarray:
  """Earlier exposures of the row's category to its user, fading in 3 hours."""
  key = exposures.user * len(CATEGORIES) + category
  order = np.lexsort((exposures.request, key))
  time = exposures.time_ms[order] / (3 * 3_600_000)
  key, request = key[order], exposures.request[order]
  is_first = np.append(True, np.diff(key) != 0)
  new_request = np.append(True, np.diff(request) != 0) | is_first
  starts = np.flatnonzero(new_request)
  size = np.diff(np.append(starts, len(key)))
  kept = np.exp(-np.diff(time[starts]))
  faded = np.zeros(len(starts))
  for visit in np.flatnonzero(~is_first[starts]):
    faded[visit] = (faded[visit - 1] + size[visit - 1]) * kept[visit - 1]
  result = np.empty(len(key))
  result[order] = faded[np.cumsum(new_request) - 1]
  return result


def _score_errors(
    rng: np.random.Generator, users: _Users, user: np.ndarray
) -> np.ndarray:
  """Errors in log-odds `[N, M]`: shared, by newness, by device and region."""
  shape = (len(user), len(OBJECTIVES))
  newness = np.exp(-users.tenure[user] / _NEW_DAYS)[:, None]
  spread = _ERROR * np.power(RATES, -_ERROR_POWER) * (
      1 + (_ERROR_OF_NEW - 1) * newness)
  noise = (np.sqrt(_SHARED_ERROR) * rng.normal(size=(shape[0], 1))
           + np.sqrt(1 - _SHARED_ERROR) * rng.normal(size=shape))
  by_device = _GROUP_SHIFT * rng.normal(size=(len(_DEVICES), shape[1]))
  by_region = _GROUP_SHIFT * rng.normal(size=(len(_REGIONS), shape[1]))
  return (spread * noise + by_device[users.device[user]]
          + by_region[users.region[user]])


def _draw_labels(
    rng: np.random.Generator, truth: np.ndarray, *, funnel: bool
) -> np.ndarray:
  """Labels `[N, M]` with exactly these marginal probabilities.

  In a funnel what follows a click happens only with one, and comment and buy
  lean on each other by a normal copula.
  """
  normal = rng.normal(size=truth.shape)
  if not funnel:
    return special.ndtr(normal) < truth
  comment, buy = OBJECTIVES.index("comment"), OBJECTIVES.index("buy")
  normal[:, buy] = (_COMMENT_BUY * normal[:, comment]
                    + np.sqrt(1 - _COMMENT_BUY**2) * normal[:, buy])
  step = truth / np.where(np.arange(truth.shape[1]) > 0, truth[:, :1], 1)
  labels = special.ndtr(normal) < step
  labels[:, 1:] &= labels[:, :1]
  return labels


def _calibrated(
    log_odds: np.ndarray, reach: np.ndarray, rate: float
) -> np.ndarray:
  """`reach * sigmoid(log_odds + b)` with b such that its mean is `rate`."""
  low, high = -30.0, 30.0
  for _ in range(60):
    middle = (low + high) / 2
    if np.mean(reach * special.expit(log_odds + middle)) < rate:
      low = middle
    else:
      high = middle
  return reach * special.expit(log_odds + high)


def _text(names: tuple[str, ...], index: np.ndarray) -> pa.Array:
  return pa.DictionaryArray.from_arrays(
      pa.array(index.astype(np.int8)), pa.array(names)).cast(pa.string())


def _log_table(
    users: _Users, items: _Items, exposures: _Exposures,
    labels: np.ndarray, scores: np.ndarray, truth: np.ndarray,
) -> pa.Table:
  user = exposures.user
  activity = np.digitize(users.visits, (0.5, 1.0, 2.0))
  columns = {
      "user_id": user.astype(np.int32),
      "item_id": exposures.item.astype(np.int32),
      "request_id": exposures.request.astype(np.int32),
      "time_ms": exposures.time_ms,
      "position": exposures.position.astype(np.int32),
      "category": _text(CATEGORIES, items.category[exposures.item]),
      "age": _text(_AGES, users.age[user]),
      "device": _text(_DEVICES, users.device[user]),
      "region": _text(_REGIONS, users.region[user]),
      "activity": _text(_ACTIVITY, activity[user]),
      "tenure_days": users.tenure[user],
      "visits_per_day": users.visits[user].astype(np.float32),
  }
  for prefix, values, dtype in (
      ("", labels, np.int8), ("score_", scores, np.float32),
      ("true_", truth, np.float32)):
    for m, name in enumerate(OBJECTIVES):
      columns[prefix + name] = values[:, m].astype(dtype)
  return pa.table(columns)


def _item_table(items: _Items) -> pa.Table:
  features = pa.FixedSizeListArray.from_arrays(
      pa.array(items.features.astype(np.float32).reshape(-1)), NUM_FEATURES)
  return pa.table({
      "item_id": np.arange(len(items.category), dtype=np.int32),
      "category": _text(CATEGORIES, items.category),
      "features": features})
