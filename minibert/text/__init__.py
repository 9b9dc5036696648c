"""SQuAD files and plain text on one side, batches of numbers on the other.

Its files, in the order in which they import each other:

    offsets             where an answer stands that is not at its offset
    formats             which other tool's data a file holds
    records             one question's record -> an example, or what is wrong with it
    convert             data of other tools -> SQuAD's nesting
    squad               SQuAD JSON -> examples, every fault named by its place
    repair              a repaired copy of a file, with a list of its changes
    tokenizer_settings  which tokenizer a model folder asks for
    tokenizer_files     a folder's tokenizer files -> vocabulary, settings and added tokens
    tokenizer           text -> token ids with character offsets, as BERT splits it
    windows             examples -> windows that fit the model, with their labels
    unread              what a model does not read of a text
    batches             windows -> padded tensors, and which of them each step takes
"""
