import random

state = random.Random(1)


def draw(n):
    T(n)
    return state.random() * n


class Model:
    def __init__(self):
        self.scale = 1.0
        self.steps = 0

    def __call__(self, x):
        self.steps += 1
        T(("forward", self.steps))
        return self.scale * x * draw(1)

    def loss(self, x, y):
        return (self(x) - y) ** 2 + T(self.steps)


def train(model, xs):
    total = 0.0
    for epoch in range(2):
        for i, x in enumerate(xs):
            loss = model.loss(x, draw(2)) / T(len(xs))
            total += loss * T(1)
            model.scale -= 0.1 * loss
            if i % 2 and T(loss) > 100:
                break
        else:
            T(round(total, 9))
    return total


# %%
model = Model()
T(train(model, [1.0, 2.0]))
T(state.random())
