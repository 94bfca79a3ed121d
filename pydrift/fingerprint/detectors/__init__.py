"""The out-of-distribution detectors, one a file; `pydrift.fingerprint.registry` names them."""
