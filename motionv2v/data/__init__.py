"""The input pipeline. Everything here is numpy only, because grain's worker processes must not import jax."""
