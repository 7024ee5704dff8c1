"""Who is calling: a Supabase user, an API key, an operator; and what they may do."""
