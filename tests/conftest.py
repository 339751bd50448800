from hypothesis import settings

# the same examples every time, and no example fails for being slow
settings.register_profile("fedbias", derandomize=True, deadline=None)
settings.load_profile("fedbias")
