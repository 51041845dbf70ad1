"""The losses, a row each: their names in ``fairloss`` and ``fairloss.functional``, and the tables of README and docs.

Data alone: nothing of the losses is imported here, and no torch. A new loss is its file, its row and its test case;
``make tables`` writes what is made from the rows, and the tests compare it.
"""

from __future__ import annotations

from fairloss.losses.catalogue_row import Loss, Paper

__all__ = ["LOSSES", "Loss", "Paper"]


ADVERSARIAL = Paper("Zhang et al.", 2018, "https://arxiv.org/abs/1801.07593")
AWARENESS = Paper("Dwork et al.", 2012, "https://arxiv.org/abs/1104.3913")
FAIRCLIP = Paper("FairCLIP", 2024, "https://arxiv.org/abs/2403.19949")
FAIRDI = Paper("FairDi", 2024, "https://arxiv.org/abs/2411.11939")
FAIRGRPO = Paper("FairGRPO", 2025, "https://arxiv.org/abs/2510.19893")
FAIRLORA = Paper("FairLoRA", 2024, "https://arxiv.org/abs/2410.17358")
FAIRMED_VLM = Paper("FairMed-VLM", None, "https://openreview.net/forum?id=DtbykQBmE5")
FAIRNESS_AWARE_LORA = Paper("fairness-aware LoRA", 2025, "https://arxiv.org/abs/2512.03477")
FAIRSEG = Paper("FairSeg", 2024, "https://arxiv.org/abs/2311.02189")
FAIRVISION = Paper("FairVision", 2023, "https://arxiv.org/abs/2310.02492")
GROUP_DRO = Paper("Sagawa et al.", 2019, "https://arxiv.org/abs/1911.08731")
LAFTR = Paper("LAFTR", 2018, "https://arxiv.org/abs/1802.06309")
OPPORTUNITY = Paper("Hardt et al.", 2016, "https://arxiv.org/abs/1610.02413")

LOSSES = (
    Loss(
        name="MaxAccGapLoss",
        module="fairloss.losses.max_acc_gap",
        functions=("max_acc_gap",),
        on="logits",
        sources=((FAIRNESS_AWARE_LORA, "eqs 5-6"),),
        differs="no code released; absent groups take no part, `smoothing` and `memory` are ours",
        needs="labels, groups; two groups in the batch, or in its `GroupMemory`",
        optimizes="largest minus smallest group's mean probability of the true label",
        costs="one log-softmax, shared with the cross-entropy in `FairCrossEntropyLoss`; O(N C) time, O(N) memory",
        unknown=("no", "is left out of the gap; the task loss beside it takes every sample"),
        attributes="yes",
        memory="`memory=GroupMemory(...)`: which group is best, which worst",
    ),
    Loss(
        name="FairCrossEntropyLoss",
        module="fairloss.losses.fair_cross_entropy",
        functions=("fair_cross_entropy",),
        on="logits",
        sources=((FAIRNESS_AWARE_LORA, "eqs 3, 4, 8, 9"),),
        differs="no code released; one log-softmax for all terms, weights linear in the samples",
        needs="labels; two groups for the gap, `group_counts` for the weights",
        optimizes="cross-entropy (optionally weighted) + `gap_weight` x gap",
        costs="as `MaxAccGapLoss`",
        unknown=("yes", "is in the task term with weight 1, and in no group's accuracy"),
        attributes="yes",
        memory="`memory=GroupMemory(...)`: which group is best, which worst",
    ),
    Loss(
        name="DemographicParityLoss",
        module="fairloss.losses.parity",
        functions=("demographic_parity",),
        on="logits",
        sources=((AWARENESS, ""),),
        differs="a criterion for decisions, here of mean probabilities",
        needs="two groups; labels are used only for their shape",
        optimizes="gap between the groups' soft positive rates",
        costs="O(N C)",
        unknown=("no", "is left out; the task loss takes it"),
        attributes="yes",
        memory="`memory=GroupMemory(...)`: which group is best, which worst",
    ),
    Loss(
        name="EqualOpportunityLoss",
        module="fairloss.losses.parity",
        functions=("equal_opportunity",),
        on="logits",
        sources=((OPPORTUNITY, ""),),
        differs="mean probabilities; a group without positives is out of the rate, not counted as 0",
        needs="labels; two groups *with positives*",
        optimizes="gap of soft TPR",
        costs="O(N C)",
        unknown=("no", "is left out; the task loss takes it"),
        attributes="yes",
        memory="`memory=GroupMemory(...)`: which group is best, which worst",
        compared="not yet",
    ),
    Loss(
        name="EqualizedOddsLoss",
        module="fairloss.losses.parity",
        functions=("equalized_odds",),
        on="logits",
        sources=((OPPORTUNITY, ""),),
        differs="mean probabilities; a group without positives (negatives) is out of the rate, not counted as 0",
        needs="labels; two groups *with positives* for the TPR part, with negatives for the FPR part",
        optimizes="gaps of soft TPR and FPR",
        costs="O(N C)",
        unknown=("no", "is left out; the task loss takes it"),
        attributes="yes",
        memory="`memory=GroupMemory(...)`: which group is best, which worst",
    ),
    Loss(
        name="FEBSLoss",
        module="fairloss.losses.febs",
        functions=("febs",),
        on="logits",
        sources=((FAIRSEG, ""),),
        differs="the worse group weighs more (theirs: less); losses are weighted, not probabilities",
        needs="masks, groups; any batch, a few volumes of each group are better",
        optimizes="Dice loss by group, groups with larger loss weighted up",
        costs="one pass over the pixels",
        unknown=(
            "yes",
            "is pooled with the other unknown ones, with weight 1, and not in the mean error L̄; in the cross-entropy "
            "like any other",
        ),
        attributes="yes",
        variants=(
            "the group with the larger Dice loss weighs more",
            "none",
            "FairSeg's code: tanh scale on the probabilities, smallest for the worst group",
        ),
        compared="no, segmentation",
    ),
    Loss(
        name="FairDistillationLoss",
        module="fairloss.losses.fair_distillation",
        functions=("fair_distillation",),
        on="logits",
        sources=((FAIRDI, "eqs 2-3"),),
        differs="both sides softened by the temperature, so that the teacher is the minimum",
        needs="teacher logits: one teacher, or one per group (`GroupHeads`)",
        optimizes="KL to the teacher + FIS (or any task loss)",
        costs="the teachers' forward passes dominate; `GroupHeads` computes all heads in one product",
        unknown=("yes", "follows the mean of the teachers' logits; in the task term as `FISLoss` has it"),
        variants=(
            "KL(teacher at T ‖ student at T), `direction=` turns it round",
            "eq 3: KL(student at 1 ‖ teacher at T)",
            "none",
        ),
    ),
    Loss(
        name="InverseFrequencyWeighting",
        module="fairloss.losses.inverse_frequency_weighting",
        functions=("inverse_frequency_weighting", "inverse_frequency_weights"),
        on="values",
        sources=((FAIRNESS_AWARE_LORA, "eq 8"),),
        differs="no code released; constant mean-1 weights instead of batch means per group",
        needs="training-set counts; any batch size, one sample included",
        optimizes="mean loss in which rare groups weigh more, up to `max_weight`",
        costs="O(N)",
        unknown=(
            "yes",
            'has weight 1 (before the batch\'s normalization with `normalize="batch"`); left out with '
            '`variant="paper"`',
        ),
        attributes="yes",
        memory="needs none: linear in the samples",
        variants=(
            'constant weights of mean 1 over the training set; `normalize="batch"`: divided by the batch\'s sum of weights',
            "eq 8: sum over groups of weight times the batch mean of the group",
            "none",
        ),
    ),
    Loss(
        name="GroupDROLoss",
        module="fairloss.losses.group_dro",
        functions=("group_dro",),
        on="values",
        sources=((GROUP_DRO, "algorithm 1"),),
        differs="unbiased group losses at any batch size; q moves by the distance from the mean loss",
        needs="large or balanced batches: its estimates are unbiased at any size, and noisy at small ones",
        optimizes="the worst group's loss, by weights that it keeps",
        costs="O(N), a state of 3 G numbers",
        unknown=("no", "**is dropped**: add the mean loss of the unknown samples yourself if they should train"),
        attributes="yes",
        memory="needs none: unbiased estimates",
        variants=(
            "group losses that are unbiased at any batch size; groups never seen have no weight",
            "none",
            "the authors' code: batch means, all groups from the start",
        ),
    ),
    Loss(
        name="LossVarianceLoss",
        module="fairloss.losses.loss_variance",
        functions=("loss_variance",),
        on="values",
        sources=((FAIRLORA, ""),),
        differs="over the groups present",
        needs="two groups",
        optimizes="variance of the groups' mean losses",
        costs="O(N)",
        unknown=("no", "is left out of the variance; the task loss takes it"),
        attributes="yes",
    ),
    Loss(
        name="FISLoss",
        module="fairloss.losses.fis",
        functions=("fis", "fis_weights"),
        on="values",
        sources=((FAIRDI, "eq 1"), (FAIRVISION, "code")),
        differs="exact transport instead of Sinkhorn's, signed, mean-1, capped, detached weights; softmax over groups",
        needs="a few samples of each group, or a memory",
        optimizes="loss weighted by how hard a sample and how far its group are",
        costs="one sort: O(N log N)",
        unknown=("yes", "has its individual part, and 1 as its group part (the mean of it); in no transport distance"),
        attributes="yes",
        memory="`memory=GroupMemory(...)`: transport distances",
        variants=(
            "weights of mean 1, capped, detached; softmax over groups of a signed distance",
            "eq 1: weights sum to 1 over the batch, unsigned distance, no cap",
            "FairVision's code: softmax over samples, times `right_asymptote`, gradient also through the individual weights",
        ),
    ),
    Loss(
        name="DistributionAlignmentLoss",
        module="fairloss.losses.distribution_alignment",
        functions=("distribution_alignment", "transport_distances"),
        on="values",
        sources=((FAIRCLIP, ""),),
        differs="exact transport; both sides compared as they are",
        needs="several samples per group, or samples of their own as `reference=`",
        optimizes="transport distance of each group's values to all",
        costs="one sort: O(N log N)",
        unknown=("no", "is dropped, from the distribution of all values as well"),
        variants=(
            "both sides as they are",
            "none",
            'FairCLIP\'s code: one side divided by its sum; `transport="geomloss"` for its distances',
        ),
    ),
    Loss(
        name="CrossGroupContrastiveLoss",
        module="fairloss.losses.cross_group_contrastive",
        functions=("cross_group_contrastive",),
        on="embeddings",
        sources=((FAIRMED_VLM, "section 3.4"),),
        differs="no code released; mean instead of sum over anchors, memory linear in the batch",
        needs="labels, groups; anchors need a partner of their label and another group. `return_parts=True` gives "
        "`live_fraction`; where it is low add an `EmbeddingQueue` or a `GroupBatchSampler` over (label, group)",
        optimizes="same label together across groups, other labels apart",
        costs="O(N (N + queue) D) time, O((N + queue) D) memory: no N x N matrix",
        unknown=(
            "as a negative",
            "is no anchor and no positive, but others of another label are pushed away from it; detached in an "
            "`EmbeddingQueue`",
        ),
        attributes="yes (`num_groups` is optional)",
        memory="`memory=EmbeddingQueue(...)`: partners and negatives",
        variants=("mean over anchors that have a positive", "section 3.4: sum over anchors", "none"),
    ),
    Loss(
        name="MomentAlignmentLoss",
        module="fairloss.losses.moment_alignment",
        functions=("moment_alignment",),
        on="embeddings",
        sources=((FAIRMED_VLM, "section 3.4"),),
        differs="no code released; mean instead of sum, Gram form for wide embeddings",
        needs="labels, groups; a dozen samples in each (label, group) cell, two for a covariance",
        optimizes="same mean and covariance within a label",
        costs="the cheaper of O(N^2 D) (Gram, O(N^2) memory) and O(cells N D^2)",
        unknown=("no", "is in no cell"),
        attributes="yes",
        variants=(
            "mean over compared cells, then over attributes",
            "section 3.4: sum over cells and attributes",
            "none",
        ),
    ),
    Loss(
        name="ConceptAlignmentLoss",
        module="fairloss.losses.concept_alignment",
        functions=("concept_alignment",),
        on="embeddings",
        sources=((FAIRMED_VLM, "section 3.3"),),
        differs="no code released; mean instead of sum over pairs, the whole vocabulary as negatives",
        needs="concept ids (or a 0/1 table), text embeddings; no groups",
        optimizes="each image next to its concepts",
        costs="O(N C D), O(N C) memory",
        unknown=None,
        attributes="has no groups",
        variants=(
            "mean over pairs; other true concepts are no negatives",
            "section 3.3: sum over pairs; other true concepts stay negatives",
            "none",
        ),
        compared="no, captions without groups",
    ),
    Loss(
        name="AdversarialGroupLoss",
        module="fairloss.losses.adversarial_group",
        functions=(),
        on="embeddings",
        sources=((LAFTR, ""), (ADVERSARIAL, "")),
        differs="one backward pass by gradient reversal instead of two optimizers",
        needs="groups (and labels with `num_classes`); balanced batches",
        optimizes="an adversary cannot tell the groups apart",
        costs="a small network; training oscillates, needs a second learning rate and a check by a fresh probe",
        unknown=("no", "is left out"),
        attributes="yes",
    ),
    Loss(
        name="FairGRPOAdvantage",
        module="fairloss.policy.fair_grpo",
        functions=(),
        on="rewards",
        sources=((FAIRGRPO, "eqs 1-2"),),
        differs="capped mean-1 weights, history of fixed size that is saved, order-free discovery, negative means refused",
        needs="rewards of several rollouts per prompt, not negative; domains and groups where known "
        '(`discover_groups="kmeans"` where not)',
        optimizes="GRPO's advantages, larger for rare and low-reward groups, capped by `max_ratio`",
        costs="O(batch) per step, a state of one row per domain and group; clustering runs on the host",
        unknown=(
            "yes",
            "counts for its domain, and weighs as much as the prompts of known groups do on average; with "
            '`discover_groups="kmeans"` it joins a discovered group',
        ),
        memory="keeps a history of its own",
        variants=(
            "weights capped at `max_ratio` times the median and scaled to mean 1",
            "eq 2: 1 / max(T_d T_dg, ε), no cap",
            "the authors' code: clamps T_d alone, no cap, clusters raw reward vectors",
        ),
        compared="no, reinforcement",
    ),
)
"""In the order of the tables."""
