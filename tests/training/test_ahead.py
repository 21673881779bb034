"""How far the loop of a training is ahead of the device."""

from srdef.training.ahead import StepsAhead


class Output:
    def __init__(self, step, waited):
        self.step, self.waited = step, waited

    def block_until_ready(self):
        self.waited.append(self.step)
        return self


def test_two_steps_may_be_unfinished():
    waited, ahead = [], StepsAhead()
    for step in range(6):
        ahead.add({"loss": Output(step, waited)})
        assert waited == list(range(step - 1))
