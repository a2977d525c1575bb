"""What a run can be told to do, by name, each in a few words.

Here and not in the rooms that do it, since those load JAX, while help and mistakes answer at once.
"""

METHODS = {
    "sobirl": "both terms of the hyper-gradient (Yang et al., AISTATS 2025)",
    "stoc-sobirl": "sobirl with recursive momentum (Yang et al., AISTATS 2025)",
    "drlhf": "the first term only (Christiano et al., NeurIPS 2017)",
    "pebble": "drlhf behind a time of unsupervised exploration (Lee et al., ICML 2021)",
    "hpgd": "averaged leader's and follower's advantages (Thoma et al., NeurIPS 2024)",
    "bc-hg": "a learned critic of the leader (Kudo et al., ICAPS 2026)",
    "pbrl": "a penalty and two policies (Shen et al., ICML 2024)",
    "parl": "the curvature of the follower's value (Chakraborty et al., ICLR 2024)",
    "itd": "differentiating through a few steps of the actor",
    "sac": "soft actor-critic on the true reward: the ceiling",
}
ESTIMATORS = {
    "one-step": "immediate effect of the action only; cheap, biased",
    "suffix": "discounted rewards along the rest of the trajectory, learned baseline",
    "branch": "fresh roll-outs from saved states of the simulator, for Q and V",
    "adjoint": "a correction of the replay's occupancy, fitted by least squares",
}
CLIPS = {
    "queue": "the newest comparisons, drawn by slightly older policies",
    "fresh": "drawn by the policy of now from saved states; costs simulator steps",
    "weighted": "the newest comparisons, weighted by how likely the policy of now draws them",
}
REWARD_OUTPUTS = {
    "normalise": "centred and of unit deviation where the policy goes",
    "clamp": "cut to [-1, 1]",
    "raw": "as the networks say",
}
REWARD_NORMS = {
    "none": "",
    "group": "over groups of channels of one picture",
    "batch": "by moments measured at the end of each session",
}
HUMAN = "human"
TEACHERS = {
    HUMAN: "people, through a store of questions and answers: rewardsmith label",
    "oracle": "always prefers the clip with the larger true return",
    "bradley-terry": "errs with the logistic probability of --teacher-temperature",
    "stochastic": "the same under the name of B-Pref, β = 1",
    "mistake": "one answer in ten is flipped",
    "skip": "cannot tell where neither clip earns much",
    "myopic": "sees the end of a clip best, γ_t = 0.9",
    "equal": "calls near-equal clips equal",
}
SELECTIONS = {
    "uniform": "any pair",
    "disagreement": "where the members of the ensemble differ",
    "entropy": "where the ensemble's mean is uncertain",
    "k-centre": "clips that are far apart",
    "k-centre-disagreement": "far apart, of the disputed half",
    "k-centre-entropy": "far apart, of the uncertain half",
    "influence": "answers that are expected to move the hyper-gradient most",
}
PREFERENCE_MODELS = {
    "partial-return": "logistic in the difference of summed rewards (Bradley and Terry)",
    "thurstone": "normal in the difference of summed rewards",
    "regret": "logistic in the difference of summed advantages (Knox et al., TMLR 2024)",
    "general": "a skew-symmetric form of two embeddings, which may be cyclic (Zhang et al., 2024)",
    "mixture": "groups of labellers with rewards of their own (Chakraborty et al., ICML 2024)",
}
