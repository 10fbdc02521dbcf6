"""What a method's page says beside its docstring: a formula, a source, and when the method helps."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ABOUT", "COST", "About", "page"]


class About(NamedTuple):
    """One method."""

    title: str
    formula: str
    """In LaTeX: w a weight, g its gradient, h an activation, u a utility, alpha the step size."""
    symbols: str
    """What the letters of the formula are called in the numbers of the method."""
    source: str
    helps: str
    documented: tuple[str, ...]
    """Names in the API: the function that makes the method, and its numbers."""


COST: dict[str, int | None] = {
    "bp": 18, "cbp": 32, "l2": 22, "weight-decay": 22, "l2-init": 24, "shrink-perturb": 760, "upgd": 920,
    "upgd-features": 820, "cbp-weights": 220, "swr": 430, "head-reset": 72, "full-reset": 800, "redo": 32,
    "regrama": 32, "cpr": 36, "ccbp": 34, "snr": 50, "fresh": None,
}  # fmt: skip
"""Nanoseconds a member and step, where measured; see the page of benchmarks."""

DOHARE = (
    "Dohare et al., Nature 632 (2024), [doi:10.1038/s41586-024-07711-7](https://doi.org/10.1038/s41586-024-07711-7)"
)
MCCUTCHEON = (
    "McCutcheon, Chatzaroulas and Fallah, submitted to ICLR 2026, "
    "[OpenReview UJqXhFFzKu](https://openreview.net/forum?id=UJqXhFFzKu)"
)
PRELU = "Networks of rectifiers on long streams, batch by batch."

ABOUT: dict[str, About] = {
    "bp": About(
        "Backpropagation",
        r"w \leftarrow w - \alpha g",
        r"$\alpha$ is the `step_size`",
        "The baseline of every comparison.",
        "It loses plasticity; measure the loss before you cure it.",
        ("backprop",),
    ),
    "cbp": About(
        "Continual Backpropagation",
        r"u \leftarrow \eta u + (1 - \eta)\, y, \qquad "
        r"\text{owed} \leftarrow \text{owed} + \rho \, |\{\text{age} > m\}|",
        r"$y$ is the utility of this step, $\eta$ the `decay_rate`, $\rho$ the `replacement_rate`, $m$ the "
        "`maturity_threshold`",
        DOHARE,
        f"{PRELU} The first method to try. [The algorithm](../algorithm.md) has all its steps.",
        ("cbp", "fcbp.Hyperparams"),
    ),
    "l2": About(
        "L2 regularisation",
        r"g \leftarrow g + \lambda w",
        r"$\lambda$ is the `strength`",
        DOHARE,
        "Where weights grow without bound. Under Adam the penalty is scaled with the gradient: take `weight-decay`.",
        ("l2", "L2Hyperparams"),
    ),
    "weight-decay": About(
        "Decoupled weight decay",
        r"w \leftarrow w - \alpha \lambda w",
        r"$\lambda$ is the `strength`",
        "Loshchilov and Hutter, ICLR 2019, [arXiv 1711.05101](https://arxiv.org/abs/1711.05101)",
        "As `l2`, with any optimiser.",
        ("weight_decay", "WeightDecayHyperparams"),
    ),
    "l2-init": About(
        "L2 Init",
        r"g \leftarrow g + 2 \lambda (w - w_0)",
        r"$w_0$ is the initial weight, $\lambda$ the `strength`",
        "Kumar, Marklund and Van Roy, [arXiv 2308.11958](https://arxiv.org/abs/2308.11958)",
        "Where a network should stay near its start. It is cheap, and it draws no random numbers.",
        ("l2_init", "L2InitHyperparams", "L2InitState"),
    ),
    "shrink-perturb": About(
        "Shrink and perturb",
        r"w \leftarrow \lambda w + \sigma \xi, \qquad \xi \sim \mathcal{N}(0, 1)",
        r"$\lambda$ is `shrink`, $\sigma$ is `noise_std`, once every `period` steps",
        "Ash and Adams, NeurIPS 2020, [arXiv 1910.08475](https://arxiv.org/abs/1910.08475)",
        "Where data arrive in large pieces. At every step it pays for a random number per weight.",
        ("shrink_perturb", "ShrinkPerturbHyperparams", "ShrinkPerturbState"),
    ),
    "upgd": About(
        "UPGD, by weight",
        r"w \leftarrow (1 - \alpha \lambda)\, w - \alpha\, (g + \sigma \xi)(1 - s), \qquad "
        r"s = \operatorname{sigmoid}(\hat u / \max \hat u)",
        r"$u$ is the running mean of $-g w$, $\hat u$ the same without the bias of its start, $\sigma$ is `noise_std`, "
        r"$\lambda$ is `weight_decay`",
        "Elsayed and Mahmood, ICLR 2024, [arXiv 2404.00781](https://arxiv.org/abs/2404.00781)",
        "Where old knowledge must be kept as well: useful weights move less.",
        ("upgd", "UPGDHyperparams", "UPGDState"),
    ),
    "upgd-features": About(
        "UPGD, by unit",
        r"w_{ij} \leftarrow (1 - \alpha \lambda)\, w_{ij} - \alpha\, (g_{ij} + \sigma \xi)(1 - s_j)",
        r"$s_j$ is the scaled utility of the unit that $w_{ij}$ makes; the other letters are those of `upgd`",
        "Elsayed and Mahmood, ICLR 2024, [arXiv 2404.00781](https://arxiv.org/abs/2404.00781)",
        "As `upgd`, with one utility a unit.",
        ("upgd", "UPGDHyperparams", "UPGDState"),
    ),
    "cbp-weights": About(
        "Continual Backpropagation by weight",
        r"y = |g w|, \qquad \text{owed} \leftarrow \text{owed} + \rho \, |\{\text{age} > m\}|",
        r"one utility, age and reset a weight; $\rho$ is the `reset_rate`",
        "The steps of `cbp`, for single weights; see [`fcbp.weights`](../api/fcbp.weights.md).",
        "Networks whose units cannot be reset one by one, or are few.",
        ("cbp_weights", "fcbp.weights.Hyperparams"),
    ),
    "swr": About(
        "Selective weight reinitialisation",
        r"w \leftarrow \text{fresh} \quad \text{for the } \phi n \text{ weights of least } |g w|",
        r"$\phi$ is the `factor`, once every `period` steps",
        "Hernandez-Garcia et al., CoLLAs 2025, [arXiv 2508.00212](https://arxiv.org/abs/2508.00212)",
        "Small networks and networks with layer norms, by its authors' results.",
        ("swr", "SWRHyperparams"),
    ),
    "head-reset": About(
        "Head reset",
        r"W_\text{head} \leftarrow \text{fresh} \quad \text{at a new task}",
        "the batches say when a new task begins",
        DOHARE,
        "Where tasks have other classes, and you know when they change.",
        ("head_reset", "TaskResetState"),
    ),
    "full-reset": About(
        "Full reset",
        r"w \leftarrow \text{fresh} \quad \text{at a new task}",
        "the batches say when a new task begins",
        DOHARE,
        "It is the yardstick: a network that cannot have lost plasticity, and knows nothing of the past.",
        ("full_reset", "TaskResetState"),
    ),
    "fresh": About(
        "A learner begun anew",
        r"(w, \text{moments}) \leftarrow (\text{fresh}, 0) \quad \text{at a new task}",
        "the batches say when a new task begins",
        DOHARE,
        "It tells loss of plasticity from hard tasks: what it learns of a task, a network without a past learns.",
        ("fresh",),
    ),
    "redo": About(
        "ReDo",
        r"s_i = \frac{\operatorname{mean} |h_i|}{\operatorname{mean}_j \operatorname{mean} |h_j|} \le \tau "
        r"\;\Rightarrow\; \text{reset } i",
        r"$\tau$ is the `threshold`, once every `period` steps",
        "Sokar et al., ICML 2023, [arXiv 2302.12902](https://arxiv.org/abs/2302.12902)",
        "Where units go silent, as in deep reinforcement learning. Use `decay_rate` with small batches.",
        ("redo", "RedoHyperparams", "ThresholdState"),
    ),
    "regrama": About(
        "ReGraMa",
        r"s_i = \frac{\operatorname{mean} |g_i|}{\operatorname{mean}_j \operatorname{mean} |g_j|} \le \tau "
        r"\;\Rightarrow\; \text{reset } i",
        r"$g_i$ are the gradients of a unit's incoming weights, $\tau$ is the `threshold`",
        "Liu et al., NeurIPS 2025, [arXiv 2505.24061](https://arxiv.org/abs/2505.24061)",
        "Where units stop learning without going silent: other activations than rectifiers.",
        ("regrama", "RegramaHyperparams", "ThresholdState"),
    ),
    "cpr": About(
        "Continuous partial resets",
        r"w_\text{in} \leftarrow (1 - r)\, w_\text{in} + r \, \text{fresh}, \quad w_\text{out} \leftarrow (1 - r)\, "
        r"w_\text{out}, \quad r = \rho\, T(u)",
        r"$T$ falls from 1 at the `threshold` to 0 above it, $\rho$ is the `rate`",
        MCCUTCHEON,
        "Where whole resets disturb: every unit moves a little.",
        ("cpr", "CPRHyperparams", "CPRState"),
    ),
    "ccbp": About(
        "Continuous CBP",
        r"r = \frac{\rho}{1 + e^{k (u - 1)}} \min\!\left(\frac{\text{age}}{m}, 1\right), \quad w_\text{in} \leftarrow "
        r"(1 - r)\, w_\text{in} + r \, \text{fresh}",
        r"$\rho$ is the `replacement_rate`, $k$ the `sharpness`, $m$ the maturity",
        MCCUTCHEON,
        "As `cpr`; units that were reset a short time ago are spared.",
        ("ccbp", "CCBPHyperparams", "CCBPState"),
    ),
    "snr": About(
        "Self-normalised resets",
        r"P(\text{gap}_i \ge \text{silence}_i) \le \epsilon \;\Rightarrow\; \text{reset } i",
        r"$\epsilon$ is the `rejection`; the law is that of the unit's own gaps between two firings",
        "Farias and Jozefiak, ICLR 2025, [arXiv 2410.20098](https://arxiv.org/abs/2410.20098)",
        "Rectifiers whose natural rates of firing differ much.",
        ("snr", "SNRHyperparams", "SNRState"),
    ),
}


def page(name: str, summary: str) -> str:
    """A method's page as Markdown.

    Args:
        name: the method's name in ``fcbp.methods.METHODS``.
        summary: the line that the table has.
    """
    about = ABOUT[name]
    parts = [part if part.startswith("fcbp.") else f"fcbp.methods.{part}" for part in about.documented]
    # The page of the API is where links to the name lead.
    first = f"::: {parts[0]}\n    options:\n      skip_local_inventory: true\n      show_root_toc_entry: false\n"
    links = ", ".join(f"[`{part.removeprefix('fcbp.')}`][{part}]" for part in parts[1:])
    measured = f"{COST[name]} ns a member, 18 of them backpropagation ([how](../benchmarks.md))"
    cost = measured if COST[name] is not None else "that of backpropagation, and of the reset where a task begins"
    return "\n".join(
        [
            f"# {about.title}\n",
            f"`{name}`: {summary}.\n",
            f"$$\n{about.formula}\n$$\n",
            f"Here {about.symbols}.\n",
            "| | |\n|---|---|",
            f"| Source | {about.source} |",
            f"| When it helps | {about.helps} |",
            f"| Cost of a step | {cost} |",
            f"| Numbers and state, with defaults | {links or 'none'} |",
            f"\n```bash\nfcbp run bit-flipping --method {name} --seeds 10\n```\n",
            first,
        ]
    )
