"""A program of a sweep with a robot of MuJoCo."""

import fcbp
from fcbp import envs, random


def wandering(robot="hopper"):
    """A robot that moves at random, with a friction of the member's own."""
    environment = envs.get(robot)

    def init(key, settings):
        run, start = random.split(key).unbind()
        return run, environment.reset(start, environment.physics)

    def step(carry, settings):
        key, state = carry
        now, later = random.split(key).unbind()
        physics = environment.physics._replace(friction=settings["friction"])
        action = random.uniform(random.fold_in(now, 1), (environment.actions.size,), minval=-1.0, maxval=1.0)
        state, transition = envs.step_and_reset(environment, now, state, action, physics)
        return (later, state), {"reward": transition.reward, "ended": transition.terminated}

    return fcbp.Program(init, step, numbers={"friction": 1.0})
