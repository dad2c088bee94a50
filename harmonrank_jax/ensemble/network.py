"""The ensemble network: relation-aware plus relation-agnostic branch.

Input: the predicted scores of M objectives for a candidate, and a profile
vector. Every score becomes a calibrated log-odds and one token. The
relation-aware branch aligns, then ensembles: self-attention over the M
tokens, then cross-attention in which the profile asks the aligned tokens.
The relation-agnostic branch gates: the profile gives every objective a
weight. The sum of both is the result, in logits.

Inside, rows are the last axis: `[M, N]` scores, `[P, N]` profiles, `[D, M, N]`
tokens. A row is a handful of small numbers, so it is across rows that a
processor finds equal work side by side.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy import special

from harmonrank_jax.ensemble import attention
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import items

HEADS = ("aligned", "score")
FUSIONS = ("relations", "mixture_of_experts")
# Name of the parameter of the gains of the aligned head.
GAIN = "gain"


@dataclasses.dataclass(frozen=True)
class HarmonRankConfig:
  """Static configuration of `HarmonRank`.

  Attributes:
    num_objectives: M >= 1.
    head: "score", the paper's scalar output; or "aligned", in which the
      branches correct the calibrated log-odds of each objective, and the
      score is the best one for these probabilities and the weights asked for.
    token_size: width of a token, a multiple of `num_heads`.
    num_heads: of both attentions.
    relation_aware: False takes this branch out (ablation).
    relation_agnostic: False takes this branch out (ablation).
    self_attention: False leaves the tokens unaligned (ablation).
    fusion: "relations", or "mixture_of_experts" in the place of both branches
      (a baseline).
  """

  num_objectives: int
  head: str = "aligned"
  token_size: int = 16
  num_heads: int = 2
  relation_aware: bool = True
  relation_agnostic: bool = True
  self_attention: bool = True
  fusion: str = "relations"

  def __post_init__(self):
    if self.num_objectives < 1:
      raise ValueError(
          f"num_objectives must be at least 1, got {self.num_objectives}.")
    if self.head not in HEADS:
      raise ValueError(
          f"head must be one of {', '.join(HEADS)}, got {self.head!r}.")
    if self.fusion not in FUSIONS:
      raise ValueError(
          f"fusion must be one of {', '.join(FUSIONS)}, got {self.fusion!r}.")
    if self.token_size < 1 or self.token_size % max(self.num_heads, 1):
      raise ValueError(
          f"token_size must be a positive multiple of num_heads, got "
          f"{self.token_size} and {self.num_heads}.")
    if not (self.relation_aware or self.relation_agnostic):
      raise ValueError(
          "relation_aware and relation_agnostic cannot both be False.")


class ProfileEncoder(nn.Module):
  """Embeds categorical profile columns and joins the numeric ones.

  Attributes:
    vocabulary_sizes: entries per categorical column; entry 0 is the unknown.
    embedding_size: width of each embedding, at most.
  """

  vocabulary_sizes: tuple[int, ...]
  embedding_size: int = 8

  @nn.compact
  def __call__(self, categorical: jax.Array, numeric: jax.Array) -> jax.Array:
    """Profile vectors `[..., P]` float32.

    From entries of the vocabularies `[..., C]` and numbers `[..., Q]`.
    """
    parts = [numeric.astype(jnp.float32)]
    for column, size in enumerate(self.vocabulary_sizes):
      # No wider than needed to tell the entries apart.
      width = min(self.embedding_size, size)
      embedding = nn.Embed(
          size, width, name=f"embedding_{column}",
          embedding_init=nn.initializers.normal(0.1))
      parts.append(embedding(categorical[..., column]))
    return jnp.concatenate(parts, axis=-1)


class HarmonRank(nn.Module):
  """One score from M objective scores and a profile.

  Both heads begin with a `calibration` of each score: parameters `scale`,
  `shift`, `base_rate` and `pair_share` (`[M]`; 1, 0, 1/2 and 1 until
  `with_platt` sets them; the last two are data and have no gradient).
  The aligned head starts as the closed form on these calibrated scores,

    score = sum_m w_m g_m p_m / (pi_m (1 - pi_m)),
    p_m = sigmoid(scale_m logit_m + shift_m + correction_m),

  which is the exact maximiser of `sum_m w_m AUC_m` for true probabilities
  p_m; corrections are 0 and the gains g_m 1 at first. The weights are an
  argument of the call: one network spans the whole trade-off. The gains
  (parameter `GAIN`, their logarithms) are for a loss of the ranking: what an
  estimated probability is worth depends on how good it is.

  References:
    HarmonRank, arXiv 2601.02955, for the two branches. Its score is a
    sigmoid of the sum; here it is the sum, a monotone function of it.
  """

  config: HarmonRankConfig

  def __call__(
      self,
      objective_scores: jax.Array,
      profile: jax.Array,
      where: jax.Array | None = None,
      *,
      objective_weights: jax.Array | None = None,
  ) -> jax.Array:
    """Scores candidates.

    Args:
      objective_scores: `[..., M]` probabilities.
      profile: `[..., P]` float; P may be 0.
      where: `[M]` or `[..., M]` bool, True = the objective has a score. A
        missing score takes no part; whatever stands there changes nothing.
      objective_weights: `[M]` or `[..., M]`, what the AUC of each objective
        is worth; equal if None. Aligned head only: the scalar head is bound
        to the weights it was trained with.

    Returns:
      `[...]` float32 scores, higher first. Logits for `head="score"`.

    Raises:
      ValueError: if shapes do not fit, or the scalar head is given weights.

    >>> import jax
    >>> model = HarmonRank(HarmonRankConfig(num_objectives=3))
    >>> scores, profile = jnp.full((5, 3), 0.2), jnp.zeros((5, 4))
    >>> params = model.init(jax.random.key(0), scores, profile)
    >>> model.apply(params, scores, profile).shape
    (5,)
    """
    result = self.forward(objective_scores, profile, where)
    if self.config.head == "score":
      if objective_weights is not None:
        raise ValueError(
            "objective_weights are an argument of head='aligned' only.")
      return result
    logits, gain, base_rate = result
    if objective_weights is None:
      objective_weights = jnp.ones(self.config.num_objectives)
    objective_weights = jnp.asarray(objective_weights)
    _check_fits("objective_weights", objective_weights, objective_scores)
    return calibration.closed_form_score(
        jax.nn.sigmoid(logits), base_rate,
        objective_weights * items.with_axes(gain, objective_weights.ndim))

  def objective_logits(
      self,
      objective_scores: jax.Array,
      profile: jax.Array,
      where: jax.Array | None = None,
  ) -> jax.Array:
    """`[..., M]` corrected log-odds; ValueError for the scalar head."""
    if self.config.head != "aligned":
      raise ValueError("objective_logits need head='aligned'.")
    return self.forward(objective_scores, profile, where)[0]

  @nn.compact
  def forward(self, objective_scores, profile, where):
    """Scalar head: `[...]` logits. Aligned: logits, gains, base rates."""
    config = self.config
    objectives = config.num_objectives
    if objective_scores.shape[-1:] != (objectives,):
      raise ValueError(
          f"objective_scores has shape {objective_scores.shape}; "
          f"num_objectives is {objectives}.")
    if profile.shape[:-1] != objective_scores.shape[:-1]:
      raise ValueError(
          f"profile has shape {profile.shape}, objective_scores "
          f"{objective_scores.shape}: all but the last axis must agree.")
    present = jnp.ones(objective_scores.shape, bool)
    if where is not None:
      _check_fits("where", where, objective_scores)
      present = jnp.broadcast_to(where, objective_scores.shape)
    present = _rows_last(present)
    logits, prior, base_rate = self._calibrate(
        _rows_last(objective_scores), present)
    pair_share = jax.lax.stop_gradient(self.param(
        "pair_share", nn.initializers.ones, (objectives,)))
    # Lift over the base rate: of unit scale for rare and common objectives.
    lift = logits - prior
    lead = profile.shape[:-1]
    constant = jnp.ones((*lead, 1), jnp.float32)
    profile = _rows_last(
        jnp.concatenate([profile.astype(jnp.float32), constant], -1))
    branches: list[nn.Module] = []
    if config.fusion == "mixture_of_experts":
      branches.append(MixtureOfExperts(config, name="mixture_of_experts"))
    elif config.relation_aware:
      branches.append(RelationAware(config, name="relation_aware"))
    if config.fusion == "relations" and config.relation_agnostic:
      branches.append(RelationAgnostic(config, name="relation_agnostic"))
    first, *others = (fn(lift, profile, present) for fn in branches)
    result = sum(others, first)
    if config.head == "score":
      return result.reshape(lead)
    gain = self.param(GAIN, nn.initializers.zeros, (objectives,))
    logits = jnp.moveaxis(logits + result, 0, -1).reshape(*lead, objectives)
    return logits, jnp.exp(gain) / pair_share, base_rate

  def _calibrate(self, objective_scores, present):
    """Calibrated log-odds `[M, N]` (the prior where missing), and priors."""
    objectives = self.config.num_objectives
    scale = self.param("scale", nn.initializers.ones, (objectives,))
    shift = self.param("shift", nn.initializers.zeros, (objectives,))
    base_rate = jax.lax.stop_gradient(self.param(
        "base_rate", nn.initializers.constant(0.5), (objectives,)))
    prior = special.logit(base_rate)[:, None]
    logits = scale[:, None] * calibration.log_odds(
        jnp.where(present, objective_scores, 0.5)) + shift[:, None]
    return jnp.where(present, logits, prior), prior, base_rate


class RelationAware(nn.Module):
  """Self-attention over objectives, then the profile attends to them."""

  config: HarmonRankConfig

  @nn.compact
  def __call__(
      self, lift: jax.Array, profile: jax.Array, present: jax.Array
  ) -> jax.Array:
    """`[N]` for the scalar head, else corrections `[M, N]`."""
    config = self.config
    size = config.token_size
    tokens = _Tokens(config, name="tokens")(lift)
    if config.self_attention:
      tokens += _Attention(config, name="self_attention")(
          tokens, tokens, present)
    tokens = nn.LayerNorm(
        reduction_axes=0, feature_axes=0, name="norm")(tokens)
    query = _Dense((size,), name="query")(profile)
    context = query + _Attention(config, name="cross_attention")(
        query[:, None], tokens, present)[:, 0]
    if config.head == "score":
      hidden = nn.relu(_Dense((size,), name="head_in")(context))
      return _Dense((1,), name="head_out")(hidden)[0]
    # Each objective reads its aligned token beside what the profile attends to.
    hidden = nn.relu(
        _Dense((size,), name="head_token")(tokens)
        + _Dense((size,), name="head_context")(context)[:, None])
    weight = self.param(
        "head_out", nn.initializers.zeros, (config.num_objectives, size))
    return jnp.sum(hidden * weight.T[..., None], axis=0)


class RelationAgnostic(nn.Module):
  """A gate: the profile weighs the encoded scores."""

  config: HarmonRankConfig

  @nn.compact
  def __call__(
      self, lift: jax.Array, profile: jax.Array, present: jax.Array
  ) -> jax.Array:
    """`[N]` for the scalar head, else corrections `[M, N]`."""
    config = self.config
    objectives = (config.num_objectives,)
    hidden = nn.relu(_Dense((config.token_size,), name="gate_in")(profile))
    gate = _Dense(objectives, nn.initializers.zeros, name="gate_out")(hidden)
    if config.head == "score":
      # Positive weights that start at one. Not by an exponential: a rank loss
      # does not change with the scale of the score, so nothing holds it.
      weight = jax.nn.softplus(gate + math.log(math.e - 1))
      weighted = weight * lift / config.num_objectives
      return jnp.sum(jnp.where(present, weighted, 0), axis=0)
    offset = _Dense(objectives, nn.initializers.zeros, name="offset")(hidden)
    return jnp.expm1(gate) * jnp.where(present, lift, 0) + offset


class MixtureOfExperts(nn.Module):
  """Dense experts over all scores and the profile, which also weighs them.

  The usual fusion that knows nothing of relations, a baseline: multi-gate
  mixture-of-experts (Ma et al., KDD 2018) with one gate.
  """

  config: HarmonRankConfig
  num_experts: int = 4

  @nn.compact
  def __call__(
      self, lift: jax.Array, profile: jax.Array, present: jax.Array
  ) -> jax.Array:
    """`[N]` for the scalar head, else corrections `[M, N]`."""
    config = self.config
    inputs = jnp.concatenate(
        [jnp.where(present, lift, 0), present.astype(lift.dtype), profile])
    size = 2 * config.token_size
    hidden = nn.relu(
        _Dense((self.num_experts * size,), name="experts")(inputs))
    hidden = hidden.reshape(self.num_experts, size, -1)
    gate = nn.softmax(
        _Dense((self.num_experts,), name="gate")(profile), axis=0)
    mixed = jnp.sum(gate[:, None] * hidden, axis=0)
    if config.head == "score":
      return _Dense((1,), name="head_out")(mixed)[0]
    return _Dense((config.num_objectives,), nn.initializers.zeros,
                  name="head_out")(mixed)


class _Tokens(nn.Module):
  """One token per objective: a learned curve of its lift, and its name."""

  config: HarmonRankConfig

  @nn.compact
  def __call__(self, lift: jax.Array) -> jax.Array:
    """`[M, N]` to `[D, M, N]`."""
    shape = (self.config.num_objectives, self.config.token_size)
    slope = self.param("slope", nn.initializers.normal(1.0), shape)
    bend = self.param("bend", nn.initializers.normal(1.0), shape)
    name = self.param("name_embedding", nn.initializers.normal(0.1), shape)
    curve = nn.relu(lift[None] * slope.T[..., None] + bend.T[..., None])
    return _Dense(shape[1:], name="curve_out")(curve) + name.T[..., None]


class _Dense(nn.Module):
  """`nn.Dense` with features as the first axis, or as the first axes."""

  features: tuple[int, ...]
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  # Axes that are contracted.
  inputs: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[*inputs, ...]` to `[*features, ...]`."""
    shape = (*x.shape[:self.inputs], *self.features)
    flat = math.prod(x.shape[:self.inputs]), math.prod(self.features)
    # One draw whatever the axes are called, by the number of all inputs.
    kernel = self.param("kernel", lambda key: self.kernel_init(
        key, flat).reshape(shape))
    bias = self.param("bias", nn.initializers.zeros, self.features)
    rest = x.shape[self.inputs:]
    result = jnp.einsum(
        "io,in->on", kernel.reshape(flat), x.reshape(flat[0], -1))
    return (result.reshape(*self.features, *rest)
            + bias.reshape(*self.features, *(1 for _ in rest)))


class _Attention(nn.Module):
  """Multi-head attention; parameters of Flax's module of this name."""

  config: HarmonRankConfig

  @nn.compact
  def __call__(
      self, asking: jax.Array, tokens: jax.Array, present: jax.Array
  ) -> jax.Array:
    """`[D, Q, N]` queries and `[D, M, N]` tokens to `[D, Q, N]`."""
    heads = self.config.num_heads
    depth = self.config.token_size // heads
    query = _Dense((heads, depth), name="query")(asking) / math.sqrt(depth)
    key = _Dense((heads, depth), name="key")(tokens)
    value = _Dense((heads, depth), name="value")(tokens)
    result = attention.attend(query, key, value, present)
    return _Dense(asking.shape[:1], inputs=2, name="out")(result)


def _check_fits(name: str, array: jax.Array, scores: jax.Array) -> None:
  """Accepts `[M]`, or the shape of the scores."""
  if array.shape not in (scores.shape[-1:], scores.shape):
    raise ValueError(
        f"{name} has shape {array.shape}; objective_scores of shape "
        f"{scores.shape} need {scores.shape[-1:]} or {scores.shape}.")


def _rows_last(x: jax.Array) -> jax.Array:
  """`[..., K]` to `[K, N]`."""
  return jnp.moveaxis(x, -1, 0).reshape(x.shape[-1], -1)


def with_platt(params: dict, platt: calibration.Calibration) -> dict:
  """Parameters of `HarmonRank` with its calibration set to a fitted one.

  Args:
    params: variables as `HarmonRank.init` returns them.
    platt: fitted on training rows.

  Returns:
    New variables; the argument is not changed.
  """
  inner = dict(with_rates(params, platt)["params"])
  inner.update(scale=platt.scale, shift=platt.shift)
  return {**params, "params": inner}


def with_rates(params: dict, platt: calibration.Calibration) -> dict:
  """The same, but only what says how rare an objective is.

  For parameters that were trained on other rows, whose calibration stays.
  """
  inner = dict(params["params"])
  inner.update(base_rate=platt.base_rate, pair_share=platt.pair_share)
  return {**params, "params": inner}
