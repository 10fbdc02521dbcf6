"""The from-scratch arm: everything begins anew with every task, and nothing else does."""

import pytest
import torch
import torch.utils._pytree as pytree
from learners import NETWORKS, batch_at, tree_equal

import fcbp
from fcbp import methods, optim, random
from fcbp.experiment.initial import stock_params
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.learner.core import RENEWAL
from fcbp.methods import NoHyperparams

HYPER = LearnerHyperparams(0.05, NoHyperparams())
NEW_TASKS = (3, 4, 9)


def learner(method="fresh", network="batch norm", **options):
    model, units = NETWORKS[network]()
    return make_learner(model, units, optimizer=optim.adam(), method=method, schedule=warm, **options)


def warm(step):
    return (step + 1) / 10


def run(built, key, steps=12, hyper=HYPER, new_tasks=NEW_TASKS):
    state, states, losses = built.init(key), [], []
    for t in range(steps):
        state, info = built.step(state, (*batch_at(t), torch.tensor(t in new_tasks)), hyper)
        states.append(state)
        losses.append(info["loss"])
    return states, torch.stack(losses)


def test_each_task_is_that_of_a_learner_made_for_it():
    """Parameters, optimiser, buffers, steps: the states in a task are to the bit those of a new learner's steps."""
    built, plain, key = learner(), learner("bp"), random.key(7)
    states, losses = run(built, key)
    ends = (*NEW_TASKS, 12)
    for task, (begin, end) in enumerate(zip((0, *NEW_TASKS), ends, strict=True)):
        own = key if task == 0 else random.fold_in(random.fold_in(key, RENEWAL), torch.tensor(task))
        state = plain.init(own)
        for t in range(begin, end):
            state, info = plain.step(state, batch_at(t), HYPER)
            tree_equal(tuple(states[t][:5]), tuple(state[:5]))
            assert torch.equal(losses[t], info["loss"])


def test_tasks_and_members_have_keys_of_their_own():
    built = learner()
    firsts = []
    for seed in (0, 1):
        # Steps of size 0, after which the parameters are those drawn.
        states, _ = run(built, random.key(seed), hyper=HYPER._replace(step_size=0.0))
        firsts += [states[t].params["0.weight"] for t in (0, *NEW_TASKS)]
    assert len({float(w.sum()) for w in firsts}) == len(firsts) == 8
    assert torch.equal(firsts[0], built.init(random.key(0)).params["0.weight"])


def test_the_rule_of_later_parameters_may_be_another_function():
    def redraw(key):
        return {name: p + 100 for name, p in built.init(key).params.items()}

    built = learner()
    with_rule = learner(redraw=redraw)
    states, _ = run(with_rule, random.key(0), hyper=HYPER._replace(step_size=0.0))
    assert states[2].params["0.weight"].max() < 10
    assert states[3].params["0.weight"].min() > 90
    with pytest.raises(ValueError, match="redraw is 3; expected a function key -> params, or None"):
        learner(redraw=3)


def test_in_a_chain_the_other_methods_begin_anew_too():
    both = methods.chain(methods.fresh(), methods.cbp())
    assert both.renews
    assert both.reads_new_task
    hyper = HYPER._replace(method=(NoHyperparams(), fcbp.Hyperparams()))
    states, _ = run(learner(both), random.key(0), hyper=hyper)
    ages = [int(next(iter(state.method[1].age.values())).max()) for state in states]
    assert ages == [1, 2, 3, 1, 1, 2, 3, 4, 5, 1, 2, 3]
    assert not methods.chain(methods.l2(), methods.cbp()).renews


def test_the_loss_of_a_tasks_first_batch_is_the_new_learners():
    states, losses = run(learner(), random.key(0), 4)
    model, _ = NETWORKS["batch norm"]()
    new = learner("bp").init(random.fold_in(states[0].renewal[0], torch.tensor(1)))
    output = torch.func.functional_call(model, (dict(new.params), dict(new.buffers)), (batch_at(3)[0],))
    torch.testing.assert_close(losses[3], torch.nn.functional.mse_loss(output, batch_at(3)[1]))


def test_it_vmaps_over_members_whose_tasks_begin_at_other_steps():
    built = learner()
    starts = [(3, 4, 9), (2, 7), ()]
    state = torch.vmap(built.init)(random.key(torch.arange(3)))
    for t in range(10):
        signal = torch.tensor([t in own for own in starts])
        batch = tuple(x.expand(3, *x.shape) for x in batch_at(t))
        state, _ = torch.vmap(lambda s, b: built.step(s, b, HYPER))(state, (*batch, signal))
    for i, own in enumerate(starts):
        alone, _ = run(built, random.key(i), 10, new_tasks=own)
        for a, b in zip(pytree.tree_leaves(state), pytree.tree_leaves(alone[-1]), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-4, atol=1e-5)


def test_batches_must_say_when_a_task_begins():
    built = learner()
    with pytest.raises(ValueError, match=r"new_task is None; .*fresh.* task_signal=True"):
        built.step(built.init(random.key(0)), batch_at(0), HYPER)


def test_a_loop_of_torch_is_told_to_make_a_new_model():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for method, hyper in (("fresh", None), (methods.chain(methods.fresh(), methods.l2()), ())):
        with pytest.raises(ValueError, match=r"method.* begins anew with every task, .*make the model"):
            fcbp.stateful.ContinualBackprop(model, optimizer, torch.zeros(1, 3), method=method, hyper=hyper)


# --- the rule of a module's own first parameters -------------------------------------------------------------


def stock():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 50)
    )


def test_torchs_own_layers_have_a_rule_that_compiles_and_has_their_distribution():
    draw = stock_params(stock, stock())
    drawn = torch.vmap(draw)(random.key(torch.arange(40)))
    torch.manual_seed(0)
    made = [dict(stock().named_parameters()) for _ in range(40)]
    for name, values in drawn.items():
        theirs = torch.stack([params[name].detach() for params in made])
        assert values.shape == theirs.shape
        assert values.dtype == theirs.dtype
        if name.startswith("1."):
            assert torch.equal(values, theirs)
        else:  # the two-sample Kolmogorov-Smirnov distance
            a, b = values.flatten().sort().values, theirs.flatten().sort().values
            grid = torch.cat([a, b])
            distance = (torch.searchsorted(a, grid) / len(a) - torch.searchsorted(b, grid) / len(b)).abs().max()
            assert distance < 2 * (2 / len(a)) ** 0.5
    assert not torch.equal(drawn["0.weight"][0], drawn["0.weight"][1])
    assert not torch.equal(drawn["4.weight"][0, 0, :50], drawn["4.bias"][0])


class Rescaled(torch.nn.Linear):
    def reset_parameters(self):
        torch.nn.init.zeros_(self.weight)


def rescaled_after():
    net = stock()
    torch.nn.init.orthogonal_(net[4].weight)
    return net


def with_a_parameter():
    net = stock()
    net.scale = torch.nn.Parameter(torch.ones(3))
    return net


def tied():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    net[1].weight = net[0].weight
    return net


@pytest.mark.parametrize("make", [lambda: Rescaled(3, 2), rescaled_after, with_a_parameter, tied])
def test_a_module_with_a_rule_of_its_own_is_not_taken_for_one_of_torchs(make):
    assert stock_params(make, make()) is None


@pytest.mark.parametrize("initial", ["module", "drawn"])
def test_an_experiment_begins_anew_by_its_initial_rule(initial):
    settings = {"hidden": (30,), "steps": 12, "bin": "task", "task_length": 4, "step_size": 0.0, "initial": initial}
    base = fcbp.experiment.get("permuted-digits").replace(method="fresh", metrics=("weight_magnitude",), **settings)
    results = fcbp.sweep(base, fcbp.grid(seed=range(3)), progress=False, compile=False)
    found = results.weight_magnitude.values
    assert len(set(found.flatten().tolist())) == 9
    first, later = found[:, 0], found[:, 1:]
    assert abs(later.mean() / first.mean() - 1) < 0.03


def test_of_a_network_with_another_rule_an_experiment_draws_its_own():
    base = fcbp.experiment.get("permuted-digits").replace(
        method="fresh", network=own_network, steps=6, bin="task", task_length=2, step_size=0.0,
        metrics=("weight_magnitude",),
    )  # fmt: skip
    results = fcbp.sweep(base, fcbp.grid(seed=range(2)), progress=False, compile=False)
    assert len(set(results.weight_magnitude.values.flatten().tolist())) == 6


def own_network(spec):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.ReLU(), torch.nn.Linear(5, 10))
    torch.nn.init.normal_(net[1].weight)
    return net


@pytest.mark.compiled
def test_in_lanes_it_gives_what_it_gives_eagerly():
    built = make_learner(*NETWORKS["mlp"](), method="fresh")
    signals = torch.tensor([t in NEW_TASKS for t in range(12)])
    inputs, targets = (torch.stack(part) for part in zip(*(batch_at(t) for t in range(12)), strict=True))
    xs = tuple(x.unsqueeze(1).expand(12, 4, *x.shape[1:]) for x in (inputs, targets, signals))
    state = torch.vmap(built.init)(random.key(torch.arange(4)))
    step = torch.vmap(lambda s, b: (lambda new, info: (new, info["loss"]))(*built.step(s, b, HYPER)))
    lanes, eager = (fcbp.loop.scan(step, state, xs, backend=backend) for backend in ("lanes", "eager"))
    torch.testing.assert_close(lanes[1], eager[1], rtol=1e-4, atol=1e-5)
    for a, b in zip(pytree.tree_leaves(lanes[0]), pytree.tree_leaves(eager[0]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
