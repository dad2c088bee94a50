"""The multi-task predictor: a shared-bottom network with personal gates."""

import dataclasses

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy import special
import numpy as np


@dataclasses.dataclass(frozen=True)
class PepNetConfig:
  """Static configuration of `PepNet`.

  Without `epnet` the embedding is ungated, without `ppnet` the towers are;
  without both this is a plain shared-bottom network.
  """

  num_objectives: int  # M >= 1.
  # Entries of each categorical column; entry 0 is the unknown.
  vocabulary_sizes: tuple[int, ...] = ()
  # Positions of the categorical columns that say in which domain a row is
  # (page, device, hour): what EPNet is conditioned on.
  domain: tuple[int, ...] = ()
  # Positions of those that identify user, item and author: PPNet's condition.
  personal: tuple[int, ...] = ()
  epnet: bool = True
  ppnet: bool = True
  embedding_size: int = 8
  shared_sizes: tuple[int, ...] = (64,)  # Layers that objectives share.
  tower_sizes: tuple[int, ...] = (32,)  # Hidden layers of each tower.
  gate_size: int = 16  # Width of the hidden layer of each gate.
  dropout_rate: float = 0.0  # Share of hidden units dropped in training.
  # Share of categorical entries replaced by the unknown in training. The
  # network then learns to score new users and items, and overfits less on the
  # known ones.
  unknown_rate: float = 0.0

  def __post_init__(self):
    for name in ("vocabulary_sizes", "shared_sizes", "tower_sizes"):
      if any(size < 1 for size in getattr(self, name)):
        raise ValueError(
            f"{name} must be at least 1 each, got {getattr(self, name)}.")
    for name in ("num_objectives", "embedding_size", "gate_size"):
      if getattr(self, name) < 1:
        raise ValueError(
            f"{name} must be at least 1, got {getattr(self, name)}.")
    columns = len(self.vocabulary_sizes)
    for name in ("domain", "personal"):
      if any(not 0 <= place < columns for place in getattr(self, name)):
        raise ValueError(
            f"{name} must be positions of the {columns} categorical columns, "
            f"got {getattr(self, name)}.")
    for name in ("dropout_rate", "unknown_rate"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(
            f"{name} must be in [0, 1), got {getattr(self, name)}.")


class PepNet(nn.Module):
  """Log-odds of M objectives from the features of a row.

  EPNet gates the shared embedding by the domain of the row, PPNet every layer
  of every tower by user and item. With E the embeddings and numeric columns
  side by side, `sg` the stopped gradient, U and V gates (two layers: relu,
  then 2 sigmoid) and l the layers of the tower of objective m,

    O        = U([E_domain, sg(E)]) * E                           (EPNet)
    H_m^0    = shared(O)
    H_m^l+1  = f(W_m^l (V_m^l([E_personal, sg(O)]) * H_m^l) + b_m^l)  (PPNet)

  f is relu, and the identity for the last layer, the log-odds. The last layer
  of a gate starts at zero, so that every factor starts at exactly 1: the
  network starts as the ungated one. A gate that is off has no parameters.

  References:
    Chang et al., "PEPNet: Parameter and Embedding Personalized Network for
    Infusing with Personalized Prior Information", KDD 2023, arXiv
    2302.01115, section 3 (Gate NU, EPNet, PPNet; gamma = 2). Differences: the
    shared layers, without which (`shared_sizes=()`) the towers begin at O as
    in the paper, and the start of the gates.
  """

  config: PepNetConfig

  @nn.compact
  def __call__(
      self, categorical: jax.Array, numeric: jax.Array, *,
      is_training: bool = False,
  ) -> jax.Array:
    """Log-odds of each objective.

    Args:
      categorical: `[..., C]` integers, entries of the vocabularies.
      numeric: `[..., Q]` float, about in [-1, 1].
      is_training: whether hidden units and entries are dropped, at the rates
        of the configuration; needs the random stream "dropout" then.

    Returns:
      `[..., M]` float32.

    Raises:
      ValueError: if the shapes do not fit, or there is no column at all.

    >>> import jax
    >>> model = PepNet(PepNetConfig(num_objectives=2, vocabulary_sizes=(9, 4)))
    >>> rows = jnp.zeros((5, 2), jnp.int32), jnp.zeros((5, 3))
    >>> params = model.init(jax.random.key(0), *rows)
    >>> model.apply(params, *rows).shape
    (5, 2)
    """
    config = self.config
    _check_columns(config, categorical, numeric)
    if is_training and config.unknown_rate:
      categorical = self._forget(categorical)
    embeddings = self._embed(categorical)
    side_by_side = lambda x: x.reshape(*x.shape[:-2], -1)
    shared = jnp.concatenate(
        [side_by_side(embeddings), numeric.astype(jnp.float32)], axis=-1)
    if config.epnet:
      domain = side_by_side(_columns(embeddings, config.domain))
      shared *= self._gate("epnet", domain, shared, shared.shape[-1:])
    hidden = shared
    for layer, size in enumerate(config.shared_sizes):
      hidden = nn.relu(nn.Dense(size, name=f"shared_{layer}")(hidden))
      hidden = self._drop(hidden, is_training)
    personal = side_by_side(_columns(embeddings, config.personal))
    hidden = jnp.broadcast_to(
        hidden[..., None, :],
        (*hidden.shape[:-1], config.num_objectives, hidden.shape[-1]))
    gated = lambda hidden, layer: hidden if not config.ppnet else (
        hidden * self._gate(
            f"ppnet_{layer}", personal, shared, hidden.shape[-2:]))
    for layer, size in enumerate(config.tower_sizes):
      hidden = _Towers(size, name=f"tower_{layer}")(gated(hidden, layer))
      hidden = self._drop(nn.relu(hidden), is_training)
    last = gated(hidden, len(config.tower_sizes))
    return _Towers(1, name="tower_out")(last)[..., 0]

  def _embed(self, categorical: jax.Array) -> jax.Array:
    """`[..., C]` to `[..., C, D]`, from one table with the columns stacked."""
    sizes = self.config.vocabulary_sizes
    if not sizes:
      return jnp.zeros((*categorical.shape, self.config.embedding_size))
    table = self.param("embedding", nn.initializers.normal(0.01),
                       (sum(sizes), self.config.embedding_size))
    starts = [sum(sizes[:column]) for column in range(len(sizes))]
    shape = (1,) * (categorical.ndim - 1) + (-1,)
    return table[categorical + jnp.asarray(starts, jnp.int32).reshape(shape)]

  def _gate(
      self, name: str, prior: jax.Array, shared: jax.Array,
      shape: tuple[int, ...],
  ) -> jax.Array:
    """Factors `[..., *shape]` in (0, 2) from `[..., P]` and `[..., S]`."""
    inputs = jnp.concatenate([prior, lax.stop_gradient(shared)], axis=-1)
    hidden = nn.relu(nn.Dense(self.config.gate_size, name=f"{name}_in")(inputs))
    width = shape[-1] if len(shape) == 1 else shape[-2] * shape[-1]
    out = nn.Dense(
        width, kernel_init=nn.initializers.zeros, name=f"{name}_out")(hidden)
    return 2 * jax.nn.sigmoid(out.reshape(*out.shape[:-1], *shape))

  def _drop(self, hidden: jax.Array, is_training: bool) -> jax.Array:
    return nn.Dropout(
        self.config.dropout_rate, deterministic=not is_training)(hidden)

  def _forget(self, categorical: jax.Array) -> jax.Array:
    """Replaces entries by the unknown, at random."""
    forgotten = jax.random.bernoulli(
        self.make_rng("dropout"), self.config.unknown_rate, categorical.shape)
    return jnp.where(forgotten, 0, categorical)


class _Towers(nn.Module):
  """A dense layer for each objective, all in one product."""

  size: int

  @nn.compact
  def __call__(self, hidden: jax.Array) -> jax.Array:
    """`[..., M, I]` to `[..., M, size]`."""
    objectives, width = hidden.shape[-2:]
    kernel = self.param(
        "kernel", nn.initializers.lecun_normal(batch_axis=(0,)),
        (objectives, width, self.size))
    bias = self.param("bias", nn.initializers.zeros, (objectives, self.size))
    result = jnp.einsum("...mi,mio->...mo", hidden, kernel)
    return result + bias.reshape((1,) * (hidden.ndim - 2) + bias.shape)


def with_base_rates(params: dict, base_rates: jax.Array) -> dict:
  """New variables with which the network starts at the base rates.

  An objective of one positive in a thousand would otherwise spend its first
  steps on learning that.

  Args:
    params: variables as `PepNet.init` returns them.
    base_rates: `[M]` in (0, 1).
  """
  inner = dict(params["params"])
  bias = special.logit(base_rates)[:, None].astype(jnp.float32)
  inner["tower_out"] = {**inner["tower_out"], "bias": bias}
  return {**params, "params": inner}


def multi_task_loss(
    logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """Binary cross-entropy of each objective, averaged over those present.

  The mean over the valid rows of an objective, then the mean over the
  objectives that have a valid row: one with few labelled rows counts as much
  as the others. An objective that is a value is predicted as its event: any
  label above 0 is a positive.

  Args:
    logits: `[..., N, M]` log-odds.
    labels: `[..., N, M]` bool, or numbers at least 0.
    where: `[..., N, M]` bool, True = the row counts for the objective.

  Returns:
    Scalar, 0 if nothing is valid.

  Raises:
    ValueError: if the shapes differ.

  >>> loss = multi_task_loss(jnp.zeros((2, 3)), jnp.ones((2, 3)))
  >>> bool(jnp.isclose(loss, jnp.log(2.0)))
  True
  """
  for name, array in (("labels", labels), ("where", where)):
    if array is not None and array.shape != logits.shape:
      raise ValueError(
          f"{name} has shape {array.shape}; logits have {logits.shape}.")
  valid = jnp.ones(logits.shape, bool) if where is None else where
  logits = jnp.where(valid, logits, 0)
  losses = jnp.where(valid, jax.nn.softplus(
      jnp.where(labels > 0, -logits, logits)), 0)
  rows = tuple(range(logits.ndim - 1))
  counts = jnp.sum(valid, axis=rows)
  means = jnp.sum(losses, axis=rows) / jnp.maximum(counts, 1)
  return jnp.sum(means) / jnp.maximum(jnp.sum(counts > 0), 1)


def _columns(embeddings: jax.Array, places: tuple[int, ...]) -> jax.Array:
  return embeddings[..., np.asarray(places, np.int32), :]


def _check_columns(
    config: PepNetConfig, categorical: jax.Array, numeric: jax.Array
) -> None:
  columns = len(config.vocabulary_sizes)
  if categorical.shape[-1:] != (columns,):
    raise ValueError(
        f"categorical has shape {categorical.shape}; there are {columns} "
        "vocabulary_sizes.")
  if numeric.shape[:-1] != categorical.shape[:-1]:
    raise ValueError(
        f"numeric has shape {numeric.shape}, categorical {categorical.shape}: "
        "all but the last axis must agree.")
  if not columns and not numeric.shape[-1]:
    raise ValueError("categorical and numeric have no column.")
