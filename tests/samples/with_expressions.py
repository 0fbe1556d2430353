import contextlib
import io
import threading

lock = threading.RLock()


class Tx:
    depth = 0

    def __enter__(self):
        self.depth += 1
        T(("begin", self.depth))
        return self

    def __exit__(self, *error):
        T(("end", self.depth))
        self.depth -= 1


tx = Tx()


def f():
    with tx, lock, contextlib.redirect_stdout(io.StringIO()) as text:
        print(T("hidden"))
        with tx as same:
            T(same is tx)
    T(text.getvalue())
    with contextlib.closing(open("/dev/null")) as file, contextlib.nullcontext(T(1)):
        T(file.closed)
        with contextlib.ExitStack() as stack:
            stack.callback(T, "callback")
            T("in stack")
            inner = stack.pop_all()
    T(file.closed)
    with inner:
        T("inner")


# %%
f()
