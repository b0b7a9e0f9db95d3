//! What several fuzz targets share.

/// The parts in which `stream` arrives: all at once for the seed 0, else of 1 to `seed` bytes each.
pub fn parts(stream: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = stream;
    let mut state = seed;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state = state.wrapping_mul(109).wrapping_add(57);
        let size = state.checked_rem(seed).map_or(rest.len(), |size| 1 + usize::from(size));
        let (part, later) = rest.split_at(size.min(rest.len()));
        rest = later;
        Some(part)
    })
}
