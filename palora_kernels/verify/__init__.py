"""What shows that the kernels are right and good, beside the tests; nothing that is shipped imports it.

- ``catalog``, ``listing``, ``variants/``: every compilation that a call can ask for;
- ``aot/``: the gate, which compiles them ahead of time for all targets and reads registers, spills and instructions;
- ``races``: programs that write where another reads; ``counting``, ``roofline``, ``networks``: bytes and operations of
  the papers' layers against the least that is possible;
- ``cuda_check``: the same of the CUDA C++, by nvcc;
- ``mutants``, ``planted``: bugs planted in the kernels, which the tests have to notice.
"""
