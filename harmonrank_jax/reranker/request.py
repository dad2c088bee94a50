"""The page of one request by a trained policy, without a simulator.

A request brings its candidates, and what its user has been shown earlier in the
day: nothing is kept between requests. The page is that of `Simulator.step` in
the same place of a day. Only policies that were trained with one request a
window are answered for: with more, one action, on the candidates of the first,
answers all of a window.
"""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from harmonrank_jax.reranker import day as day_lib
from harmonrank_jax.reranker import page as page_lib
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import score_calibration
from harmonrank_jax.reranker import simulator as simulator_lib
from harmonrank_jax.reranker import trajectory as trajectory_lib

NUM_WINDOWS = response_lib.NUM_WINDOWS


class Deployed(NamedTuple):
  """The arrays of a policy that answers requests."""

  actor: Any  # Parameters, what `policy.ActorCritic` calls `actor`.
  statistics: trajectory_lib.Statistics  # Of observations.
  calibration: score_calibration.Calibration  # Of the scores it corrects.


class Request(NamedTuple):
  """A request of N candidates.

  N may differ from the number in training; the policy then sees other means
  and maxima over the candidates than it was trained with. Entries of masked
  candidates and of items that were not shown may hold anything.
  """

  categories: jax.Array  # [N] int32 in [0, C), or -1 for none of them.
  features: jax.Array  # [N, D]
  log_odds: jax.Array  # [N], predicted, of a click.
  # [N], what a click is worth in relevance, on a log scale; 0 for clicks.
  log_value: jax.Array
  where: jax.Array  # [N] bool, True = may be shown.
  history: day_lib.History  # Of the user, since midnight.
  window: jax.Array  # [] int32, of 15 minutes of the day, from 0.
  # [], of the user in windows before; windows since the last of them.
  requests_today: jax.Array
  since_last: jax.Array


class Answer(NamedTuple):
  """A page of K slots, in its final order."""

  indices: jax.Array  # [K] int32, candidates; -1 in empty slots.
  gains: jax.Array  # [K], by which they were selected; 0 in empty slots.
  diversity: jax.Array  # [], `log det S_Y / K`.
  observation: jax.Array  # [O], what the policy saw.
  action: jax.Array  # [A], what it did.


def answer(
    simulator: simulator_lib.Simulator,
    config: ppo_config.PpoConfig,
    deployed: Deployed,
    request: Request,
    *,
    theta: jax.Array | float,
    quotas: jax.Array | None = None,
) -> Answer:
  """The page that the policy's mean action makes of a request.

  In training a window has one request of a user. A second one in reality is
  answered as if it came a window later.

  Args:
    simulator: the page, as the policy was trained for it.
    config: of the learner.
    deployed: the policy.
    request: one request; `vmap` for more.
    theta: in (0, 1), the DPP's weight of relevance; the knob moves it.
    quotas: `[C]` integers, at most so many items of a category.

  Returns:
    The `Answer`.

  Raises:
    ValueError: if the page has more than one request a window, or is that of
      the privileged.
  """
  if simulator.max_requests > 1:
    raise ValueError(
        "max_requests must be 1: the later requests of a window are answered "
        "by the action for the first.")
  if simulator.privileged:
    raise ValueError("a privileged page sees what no request knows.")
  window = jnp.clip(request.window, 0, NUM_WINDOWS - 1)
  candidates = _candidates(request, window, deployed.calibration)
  memory = day_lib.remembered(
      _clean(request.history), num_categories=simulator.num_categories)
  # The first request of a day has none before.
  since = jnp.where(
      request.requests_today > 0, jnp.maximum(request.since_last, 1), 0)
  observation = day_lib.observe(
      memory,
      day_lib.Moment(window, jnp.ones(()), request.requests_today, since),
      candidates, num_slots=simulator.num_slots,
      num_candidates=simulator.num_candidates)
  action = ppo.mean_action(
      {"params": {"actor": deployed.actor}}, deployed.statistics, observation,
      config=config)
  bias, theta = simulator.corrections(action, jnp.asarray(theta))
  selection = page_lib.select(candidates, bias, theta, quotas=quotas)
  order = page_lib.arrange(
      candidates.categories[selection.indices], selection.picked,
      memory.disliked - memory.liked, feedback_rule=simulator.feedback_rule,
      spread=simulator.spread)
  indices = jnp.where(selection.picked, selection.indices, -1)
  return Answer(indices[order], selection.gains[order], selection.diversity,
                observation, action)


def _candidates(
    request: Request, window: jax.Array,
    calibration: score_calibration.Calibration,
) -> page_lib.Candidates:
  """The candidates with their relevance in this window."""
  where = request.where
  log_odds = jnp.where(where, request.log_odds, 0)
  score = score_calibration.calibrated_log_odds(
      calibration, log_odds, request.categories) + page_lib.of_category(
          calibration.shift[window], request.categories)
  relevance = jax.nn.log_sigmoid(score) + jnp.where(
      where, request.log_value, 0)
  return page_lib.Candidates(
      jnp.arange(where.shape[0]), request.categories, request.features,
      log_odds, relevance, where)


def _clean(history: day_lib.History) -> day_lib.History:
  """Zeros where nothing was shown, and ages from the next window on."""
  clear = lambda values: jnp.where(history.where, values, 0)
  return history._replace(
      age=jnp.maximum(clear(history.age), 1),
      log_odds=clear(history.log_odds), clicks=clear(history.clicks),
      dismissed=clear(history.dismissed))
