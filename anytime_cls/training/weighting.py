"""What a diffusion draw counts at each time: w(t) of the score −w(t) ‖z − ẑ‖², fitted on held-out images."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from anytime_cls.draws.levels import van_der_corput
from anytime_cls.scorers.diffusion import CLARK_JAINI, Straight, Weighting, errors, weight_at
from anytime_cls.scorers.dit import LOSS, DiT

Array = np.ndarray

KNOTS = 9  # times at which w is fitted; between them log w is linear
RIDGE = 0.01  # of a knot's log w against its neighbours', so that w stays smooth


@torch.inference_mode()
def errors_of(net: DiT, latents: Tensor, draws: int = 32, seed: int = 0) -> tuple[Array, Array]:
    """‖z − ẑ‖² of every class on the same draws, times well spread: latents [n, D, g, g] →

    errors float64 [n, draws, C] and times float64 [n, draws].
    """
    n, n_classes = len(latents), net.config.n_classes
    clean = net.standardised(latents.float())
    generator = torch.Generator(latents.device).manual_seed(seed)
    offsets = torch.rand(n, generator=generator, device=latents.device)
    classes = torch.arange(n_classes, device=latents.device)
    found, times = np.empty((n, draws, n_classes)), np.empty((n, draws))
    for k in range(draws):
        t = (offsets + van_der_corput(k)) % 1.0
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        for rows in torch.arange(n, device=clean.device).split(max(1, 4096 // n_classes)):
            every = [x[rows].repeat_interleave(n_classes, 0) for x in (clean, noise)]
            when = t[rows].double().cpu().repeat_interleave(n_classes)
            wrong = errors(net, Straight(), every[0], when, every[1], classes.repeat(len(rows)), LOSS)
            found[rows.cpu(), k] = wrong.view(-1, n_classes).cpu()
        times[:, k] = t.cpu()
    return found, times


def fit_weighting(wrong: Array, times: Array, labels: Array) -> Weighting:
    """The w(t) under which soft-max over classes of Σ_k −w(t_k) errors / K is likeliest to be right.

    wrong : errors float64 [n, K, C], times : [n, K], labels : int [n]. Returns (t, w) at `KNOTS` times. The
    fit is convex in w but for its positivity. It starts at Clark & Jaini's w = exp(−7 t).
    """
    knots = np.linspace(0, 1, KNOTS)
    place = np.clip(times * (KNOTS - 1), 0, KNOTS - 1 - 1e-9)
    low, part = place.astype(int), torch.from_numpy(place - place.astype(int))
    lower, upper = torch.from_numpy(low), torch.from_numpy(low + 1)
    all_errors = torch.from_numpy(wrong - wrong.mean(2, keepdims=True))
    wanted = torch.from_numpy(np.asarray(labels, np.int64))

    def loss(point: Array) -> tuple[float, Array]:
        log_w = torch.tensor(point, requires_grad=True)
        w = ((1 - part) * log_w[lower] + part * log_w[upper]).exp()
        scores = -(w[:, :, None] * all_errors).mean(1)
        rough = RIDGE * log_w.diff().square().sum()
        total = torch.nn.functional.cross_entropy(scores, wanted) + rough
        total.backward()
        assert log_w.grad is not None
        return total.item(), log_w.grad.numpy()

    start = np.log(weight_at(CLARK_JAINI, knots))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-30.0, 30.0)] * KNOTS).x
    return tuple((float(t), float(np.exp(value))) for t, value in zip(knots, found, strict=True))
