"""How users respond to slates: a model, and its fit to a log of exposures.

A slot that is reached is looked at with a probability of its position, and
what is looked at is clicked with a probability of its attraction:

  attraction = scale l + level[c] + demand[c, window]
               - fatigue F_c - redundancy max_above cos(f, f_above)

l are the predicted log-odds of a click, so scale and level are what they are
miscalibrated by; F_c counts what the user was shown of category c earlier in
the day, each exposure fading by `recovery` a window. After a click the user
leaves the page with probability `stop`: what stands below was never reached
(the cascade). What is not clicked is dismissed with probability `dismiss`.

The fit maximises the likelihood of the clicks, of which it knows the cascade
only through them: P(click_k | clicks above) = b_k q_k, with q_k the
probability of a click if reached and b_k that it was reached,

  b_{k+1} = 1 - stop after a click, else b_k (1 - q_k) / (1 - b_k q_k).
"""

from typing import NamedTuple

import jax
from jax import flatten_util
from jax import lax
import jax.numpy as jnp
import numpy as np

# Windows of a day, of 15 minutes.
NUM_WINDOWS = 96
# Harmonics of a day that make a category's demand: 24, 12 and 8 hours.
_HARMONICS = 3
_MAX_ITERATIONS = 100
# Newton decrement, in units of the log-likelihood, that ends the fit: within
# a tenth of a standard error. A float32 sum of many slates knows no better.
_TOLERANCE = 1e-2
_LEAST_DAMPING = 1e-2


class Response(NamedTuple):
  """What decides the clicks; C categories, W windows, K positions.

  Attributes:
    scale: `[]`, of the predicted log-odds; 1 if they are calibrated.
    level: `[C]`, log-odds of a category as such.
    demand: `[C, W]`, log-odds by the window of the day, of mean 0.
    fatigue: `[]`, log-odds that an exposure fresh in mind costs.
    recovery: `[]` in (0, 1), what is left of fatigue a window later.
    redundancy: `[]`, log-odds that a copy of an item above costs.
    examination: `[K]` in (0, 1], probability that a position that is reached
      is looked at; 1 at the first.
    stop: `[]` in (0, 1), probability to leave the page after a click.
    dismiss: `[]` in [0, 1), probability that what is not clicked is
      dismissed.
  """

  scale: jax.Array
  level: jax.Array
  demand: jax.Array
  fatigue: jax.Array
  recovery: jax.Array
  redundancy: jax.Array
  examination: jax.Array
  stop: jax.Array
  dismiss: jax.Array


class Exposures(NamedTuple):
  """A log of R slates of up to K positions, by user, day and time.

  Attributes:
    log_odds: `[R, K]` float32, of a click as predicted.
    categories: `[R, K]` int32 in [0, C).
    similarity: `[R, K]` float32, cosine to the most similar item above, 0 at
      the top.
    clicks: `[R, K]` bool.
    dismissed: `[R, K]` bool.
    where: `[R, K]` bool, True = an item was shown.
    time: `[R]` float32, of the day, in windows: from 0 to W.
    day_ids: `[R]` int32, of the user's day the slate is in. Slates of a day
      stand together, in the order of time.
  """

  log_odds: jax.Array
  categories: jax.Array
  similarity: jax.Array
  clicks: jax.Array
  dismissed: jax.Array
  where: jax.Array
  time: jax.Array
  day_ids: jax.Array


class ResponseFit(NamedTuple):
  """A fit and its uncertainty.

  Attributes:
    response: of the largest posterior.
    replicates: `Response` with leading axis B, by bootstrap over users' days.
    log_likelihood: `[]`, of the clicks.
    is_converged: `[]` bool.
  """

  response: Response
  replicates: Response
  log_likelihood: jax.Array
  is_converged: jax.Array


class _Theta(NamedTuple):
  """Unbounded parameters."""

  scale: jax.Array
  level: jax.Array
  harmonics: jax.Array  # [C, 2 H]
  fatigue: jax.Array
  log_fading: jax.Array  # Log of the windows in which fatigue falls by e.
  redundancy: jax.Array
  examination: jax.Array  # [K - 1] log-odds
  stop: jax.Array  # Log-odds.


class _Search(NamedTuple):
  """Carry of the fit: the best parameters so far, and what to try next."""

  theta: jax.Array  # [P]
  posterior: jax.Array  # Log of its density, but for a constant.
  likelihood: jax.Array  # Log.
  gradients: jax.Array  # [R, P] of the log-likelihood, slate by slate.
  information: jax.Array  # [P, P]
  damping: jax.Array
  proposal: jax.Array  # [P]
  gain: jax.Array  # That the proposal promises, twice.
  num_steps: jax.Array | int


class _Slate(NamedTuple):
  """What the likelihood of a slate depends on; `[K]` but for time."""

  log_odds: jax.Array
  categories: jax.Array
  similarity: jax.Array
  clicks: jax.Array
  where: jax.Array
  time: jax.Array
  shown: jax.Array  # Faded, of the category.
  slope: jax.Array  # Its derivative by log_fading.


def fit_response(
    exposures: Exposures,
    *,
    num_categories: int,
    num_replicates: int = 64,
    key: jax.Array,
) -> ResponseFit:
  """Fits a response model to a log, with bootstrap replicates.

  Damped scoring steps, the information estimated by the outer products of the
  slates' scores, under weak normal priors (standard deviation 1 to 2 log-odds
  about: calibrated predictions, no fatigue, fading in 3 hours, 88 % looked at,
  5 % leaving), which matter only where the log says nothing. Replicates take
  one scoring step from the fit with the weights of a multinomial bootstrap
  over users' days.

  Args:
    exposures: the log.
    num_categories: C.
    num_replicates: B, at least 1.
    key: of the bootstrap.

  Returns:
    The `ResponseFit`, float32. A log without slates gives the prior's mean.

  Raises:
    ValueError: if shapes do not fit.

  References:
    Craswell et al. 2008, "An experimental comparison of click position-bias
    models", the cascade and examination hypotheses; Berndt, Hall, Hall and
    Hausman 1974, the outer products; Davidson and MacKinnon 1999, the
    one-step bootstrap.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> clicks = jax.random.bernoulli(jax.random.key(0), 0.5, (500, 1))
  >>> fit = fit_response(
  ...     Exposures(
  ...         jnp.zeros((500, 1)), jnp.zeros((500, 1), int),
  ...         jnp.zeros((500, 1)), clicks, clicks & False,
  ...         jnp.ones((500, 1), bool), jnp.linspace(0, 90, 500),
  ...         jnp.arange(500)),
  ...     num_categories=1, key=jax.random.key(1))
  >>> bool(fit.is_converged) and abs(float(fit.response.level[0])) < 0.3
  True
  """
  exposures = _checked(exposures)
  num_positions = exposures.clicks.shape[1]
  prior, spread = _prior(num_categories, num_positions)
  flat, unravel = flatten_util.ravel_pytree(prior)
  precision = flatten_util.ravel_pytree(spread)[0] ** -2

  def scores(theta):
    """Log-likelihood and its gradient, slate by slate."""
    slates = _slates(unravel(theta), exposures, num_categories)
    return jax.vmap(
        jax.value_and_grad(
            lambda theta, slate: _log_likelihood(unravel(theta), slate)),
        in_axes=(None, 0))(theta, slates)

  def step(carry):
    values, gradients = scores(carry.proposal)
    offset = carry.proposal - flat
    posterior = jnp.sum(values) - 0.5 * jnp.sum(precision * offset**2)
    is_better = posterior > carry.posterior
    # Nielsen 1999: less damping the better the quadratic told the rise.
    rise = (posterior - carry.posterior) / (0.5 * carry.gain)
    factor = jnp.where(
        is_better, jnp.clip(1 - (2 * rise - 1)**3, 1 / 3, 2), 3)
    theta, posterior, likelihood, gradients = jax.tree.map(
        lambda new, old: jnp.where(is_better, new, old),
        (carry.proposal, posterior, jnp.sum(values), gradients),
        (carry.theta, carry.posterior, carry.likelihood, carry.gradients))
    damping = jnp.where(
        jnp.isfinite(carry.posterior),
        jnp.maximum(carry.damping * factor, _LEAST_DAMPING), carry.damping)
    information = gradients.T @ gradients + jnp.diag(precision)
    gradient = jnp.sum(gradients, axis=0) - precision * (theta - flat)
    direction = jnp.linalg.solve(
        information + damping * jnp.diag(jnp.diag(information)), gradient)
    return _Search(theta, posterior, likelihood, gradients, information,
                   damping, theta + direction, gradient @ direction,
                   carry.num_steps + 1)

  num_parameters = len(flat)
  found = lax.while_loop(
      lambda carry: (carry.gain > _TOLERANCE) & (
          carry.num_steps < _MAX_ITERATIONS),
      step, _Search(
          flat, jnp.float32(-jnp.inf), jnp.float32(0),
          jnp.zeros((len(exposures.time), num_parameters)),
          jnp.zeros((num_parameters, num_parameters)),
          jnp.float32(_LEAST_DAMPING),
          flat, jnp.float32(jnp.inf), 0))
  theta = found.theta
  drawn = _bootstrap(exposures, found.gradients, num_replicates, key)
  steps = jnp.linalg.solve(found.information, drawn.gradients.T).T
  constrain = lambda theta, dismiss: _response(unravel(theta), dismiss)
  return ResponseFit(
      constrain(theta, _dismiss_rate(*map(jnp.sum, _dismissals(exposures)))),
      jax.vmap(constrain)(theta[None, :] + steps,
                          _dismiss_rate(*drawn.dismissals)),
      found.likelihood, found.gain <= _TOLERANCE)


def click_probabilities(
    response: Response, exposures: Exposures
) -> jax.Array:
  """Probability of every click of a log, given the clicks above it.

  Args:
    response: the model.
    exposures: of R slates of K positions, at most those of the model.

  Returns:
    `[R, K]` float32, 0 where nothing was shown.

  Raises:
    ValueError: if shapes do not fit.
  """
  exposures = _checked(exposures)
  num_positions = exposures.clicks.shape[1]
  if num_positions > response.examination.shape[0]:
    raise ValueError(
        f"exposures have {num_positions} positions, the response "
        f"{response.examination.shape[0]}.")
  fading = -1 / jnp.log(response.recovery)
  shown = _faded(exposures, response.level.shape[0], fading)
  shown = jnp.take_along_axis(shown, exposures.categories, axis=1)
  window = jnp.clip(exposures.time.astype(jnp.int32), 0, NUM_WINDOWS - 1)
  odds = attraction(
      response, exposures.log_odds, exposures.categories, window[:, None],
      shown, exposures.similarity)
  reached = jnp.where(
      exposures.where,
      response.examination[None, :num_positions] * jax.nn.sigmoid(odds), 0)
  return jax.vmap(_given_above, in_axes=(0, 0, None))(
      reached, exposures.clicks, response.stop)


def attraction(
    response: Response, log_odds: jax.Array, categories: jax.Array,
    window: jax.Array, shown: jax.Array, similarity: jax.Array,
) -> jax.Array:
  """Log-odds of a click on what is looked at; all arguments `[...]`."""
  return (response.scale * log_odds + response.level[categories]
          + response.demand[categories, window]
          - response.fatigue * shown - response.redundancy * similarity)


def faded_exposures(
    exposures: Exposures, *, num_categories: int, recovery: jax.Array | float
) -> jax.Array:
  """What the user of each slate was shown of each category before, faded.

  Args:
    exposures: of R slates.
    num_categories: C.
    recovery: what is left of an exposure a window later, in (0, 1).

  Returns:
    `[R, C]` float32, in exposures.
  """
  return _faded(exposures, num_categories, -1 / jnp.log(recovery))


def harmonics(time: jax.Array) -> jax.Array:
  """Waves of a day, of 24, 12 and 8 hours: `[..., 6]` of times in windows."""
  angle = 2 * jnp.pi / NUM_WINDOWS * jnp.stack(
      [number * time for number in range(1, _HARMONICS + 1)], axis=-1)
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def _checked(exposures: Exposures) -> Exposures:
  """Zeros where nothing was shown, after a look at the shapes."""
  shape = exposures.clicks.shape
  if len(shape) != 2:
    raise ValueError(f"exposures.clicks has shape {shape}; expected [R, K].")
  for name in ("log_odds", "categories", "similarity", "dismissed", "where"):
    found = getattr(exposures, name).shape
    if found != shape:
      raise ValueError(
          f"exposures.{name} has shape {found}; clicks have {shape}.")
  for name in ("time", "day_ids"):
    found = getattr(exposures, name).shape
    if found != shape[:1]:
      raise ValueError(
          f"exposures.{name} has shape {found}; expected {shape[:1]}.")
  clear = lambda values: jnp.where(exposures.where, values, 0).astype(
      values.dtype)
  return exposures._replace(**{
      name: clear(jnp.asarray(getattr(exposures, name)))
      for name in ("log_odds", "categories", "similarity", "clicks",
                   "dismissed")})


def _prior(num_categories: int, num_positions: int) -> tuple[_Theta, _Theta]:
  """Means and standard deviations."""
  harmonics = (num_categories, 2 * _HARMONICS)

  def of(scale, level, harmonic, fatigue, fading, redundancy, look, stop):
    return _Theta(*map(jnp.float32, (
        scale, np.full(num_categories, level), np.full(harmonics, harmonic),
        fatigue, fading, redundancy, np.full(num_positions - 1, look), stop)))

  return (of(1, 0, 0, 0, np.log(12), 0, 2, -3),
          of(1, 2, 1, 1, 1, 1, 2, 2))


def _response(theta: _Theta, dismiss: jax.Array) -> Response:
  """The bounded parameters."""
  windows = jnp.arange(NUM_WINDOWS) + 0.5
  return Response(
      scale=theta.scale, level=theta.level,
      demand=theta.harmonics @ harmonics(windows).T, fatigue=theta.fatigue,
      recovery=jnp.exp(-jnp.exp(-theta.log_fading)),
      redundancy=theta.redundancy, examination=_examination(theta),
      stop=jax.nn.sigmoid(theta.stop), dismiss=dismiss)


def _examination(theta: _Theta) -> jax.Array:
  return jnp.concatenate(
      [jnp.ones(1), jax.nn.sigmoid(theta.examination)])


def _slates(
    theta: _Theta, exposures: Exposures, num_categories: int
) -> _Slate:
  """Slates with what was shown before, at this fading."""
  shown, slope = jax.jvp(
      lambda log_fading: _faded(
          exposures, num_categories, jnp.exp(log_fading)),
      (theta.log_fading,), (jnp.ones_like(theta.log_fading),))
  of_item = lambda values: jnp.take_along_axis(
      values, exposures.categories, axis=1)
  return _Slate(
      exposures.log_odds, exposures.categories, exposures.similarity,
      exposures.clicks, exposures.where, exposures.time, of_item(shown),
      of_item(slope))


def _faded(
    exposures: Exposures, num_categories: int, fading: jax.Array
) -> jax.Array:
  """`[R, C]` exposures before each slate, falling by e in `fading` windows."""
  is_category = jax.nn.one_hot(exposures.categories, num_categories)
  counts = jnp.einsum(
      "rk,rkc->rc", exposures.where.astype(jnp.float32), is_category)
  same_day = exposures.day_ids[1:] == exposures.day_ids[:-1]
  passed = jnp.diff(exposures.time)
  kept = jnp.where(same_day, jnp.exp(-jnp.maximum(passed, 0) / fading), 0)
  kept = jnp.concatenate([jnp.zeros(1), kept])[:, None]
  # F_r = kept_r (F_{r-1} + n_{r-1}), a linear recurrence.
  before = jnp.concatenate([jnp.zeros_like(counts[:1]), counts[:-1]])

  def joined(first, second):
    return first[0] * second[0], second[0] * first[1] + second[1]

  return lax.associative_scan(joined, (kept, kept * before))[1]


def _log_likelihood(theta: _Theta, slate: _Slate) -> jax.Array:
  """Of the clicks of one slate."""
  # `shown` was counted at this value of log_fading.
  moved = theta.log_fading - lax.stop_gradient(theta.log_fading)
  demand = theta.harmonics[slate.categories] @ harmonics(slate.time)
  odds = (theta.scale * slate.log_odds + theta.level[slate.categories] + demand
          - theta.fatigue * (slate.shown + moved * slate.slope)
          - theta.redundancy * slate.similarity)
  reached = jnp.where(
      slate.where, _examination(theta) * jax.nn.sigmoid(odds), 0)
  p = _given_above(reached, slate.clicks, jax.nn.sigmoid(theta.stop))
  p = jnp.clip(p, 1e-6, 1 - 1e-6)
  return jnp.sum(jnp.where(
      slate.where, jnp.where(slate.clicks, jnp.log(p), jnp.log1p(-p)), 0))


def _given_above(
    reached: jax.Array, clicks: jax.Array, stop: jax.Array
) -> jax.Array:
  """`[K]` probabilities of clicks, from those of slots that are reached."""

  def step(b, slot):
    q, click = slot
    p = b * q
    unclicked = b * (1 - q) / jnp.maximum(1 - p, 1e-6)
    return jnp.where(click, 1 - stop, unclicked), p

  return lax.scan(step, jnp.ones_like(stop), (reached, clicks))[1]


class _Drawn(NamedTuple):
  """Bootstrap samples."""

  gradients: jax.Array  # [B, P] of the log-likelihood at the fit
  dismissals: tuple[jax.Array, jax.Array]  # [B] dismissed, and not clicked


def _bootstrap(
    exposures: Exposures, gradients: jax.Array, count: int, key: jax.Array
) -> _Drawn:
  """Draws users' days with replacement.

  At the fit the gradients of the likelihood and of the prior cancel, so that
  a sample's gradient is that of what it has more or less than the log.
  """
  num_slates = len(exposures.day_ids)
  is_first = jnp.concatenate([
      jnp.ones(1, bool), exposures.day_ids[1:] != exposures.day_ids[:-1]])
  day = jnp.cumsum(is_first) - 1
  dismissed, unclicked = _dismissals(exposures)
  of_slate = jnp.concatenate(
      [gradients, dismissed[:, None], unclicked[:, None]], axis=1)
  of_day = jnp.zeros_like(of_slate).at[day].add(of_slate)
  num_days = day[-1] + 1

  def drawn(key):
    # As many as there are days; draws beyond them count for none.
    chosen = jax.random.randint(key, (num_slates,), 0, num_days)
    used = (jnp.arange(num_slates) < num_days).astype(jnp.float32)
    weights = jnp.zeros(num_slates).at[chosen].add(used)
    return weights @ of_day - jnp.pad(
        jnp.sum(gradients, axis=0), (0, 2))

  sums = lax.map(drawn, jax.random.split(key, count))
  return _Drawn(sums[:, :-2], (sums[:, -2], sums[:, -1]))


def _dismissals(exposures: Exposures) -> tuple[jax.Array, jax.Array]:
  """`[R]` dismissed, and not clicked."""
  could = exposures.where & ~exposures.clicks
  count = lambda chosen: jnp.sum(chosen, axis=1).astype(jnp.float32)
  return count(could & exposures.dismissed), count(could)


def _dismiss_rate(dismissed: jax.Array, unclicked: jax.Array) -> jax.Array:
  return dismissed / jnp.maximum(unclicked, 1)
