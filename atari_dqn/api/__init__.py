"""The Python interface, exported by the package itself: train, load, make_env, make_vec_env, evaluate, runs."""
