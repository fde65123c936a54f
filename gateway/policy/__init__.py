"""May they: the policy set as security engineers write it, the decision it gives, and the obligations that come with a yes.

`load` reads and checks a directory of policies, `decide` answers from it without I/O, `holder` keeps the set that is served.
"""
