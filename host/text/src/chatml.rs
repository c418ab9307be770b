//! The chat format of models whose folder brings no template: ChatML, and the form of it that Qwen's first models use.

/// Each message in its marks, each on a new line.
pub(crate) const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
                                 {{ message.content or '' }}<|im_end|>\n{% endfor %}\
                                 {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// What Qwen's `make_context` lays out: there is always a system message, and a line break stands before each message
/// but the first, not after each. The models were not trained on tools in this format.
pub(crate) const QWEN_V1: &str = "{% if tools %}{{ raise_exception('it knows no tools') }}{% endif %}\
                                  {% if not messages or messages[0].role != 'system' %}\
                                  <|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}\
                                  {% for message in messages %}<|im_start|>{{ message.role }}\n\
                                  {{ message.content or '' }}<|im_end|>\
                                  {% if not loop.last or add_generation_prompt %}{{ '\\n' }}{% endif %}{% endfor %}\
                                  {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A model that speaks ChatML has ended its answer with any of these.
pub(crate) const ENDS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
