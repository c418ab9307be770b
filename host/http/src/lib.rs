//! The OpenAI edge and the admin edge: JSON and HTTP stop here.
