//! What of the writes before a power cut is on the disk.
use serde::{Deserialize, Serialize};

use super::Entry;
use crate::random::Random;

/// The power goes after so many entries of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    pub entries: usize,
    /// Chance decides by it which writes since the last flush are on the disk; without one none is.
    pub seed: Option<u64>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Kept,
    /// So many bytes of it, from its beginning.
    Torn(u64),
    Lost,
}

impl Cut {
    /// With nothing on the disk that need not be there.
    #[must_use]
    pub const fn strict(entries: usize) -> Self {
        Self { entries, seed: None }
    }

    /// One of the cuts between two entries of a log: right after a flush, with nothing more on the disk; or somewhere before the next flush, with what
    /// chance will have. Flushes count alike, however much was written between them.
    #[must_use]
    pub fn random(entries: &[Entry], from: usize, to: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let flushes: Vec<usize> = (from..to).filter(|number| entries[*number].flush).collect();
        let chosen = random.below(flushes.len());
        let flush = flushes.get(chosen).map_or(from, |number| number + 1);
        if random.below(2) == 0 {
            return Self::strict(flush);
        }
        let next = flushes.get(chosen + 1).copied().unwrap_or(to).max(flush);
        Self { entries: flush + random.below(next - flush + 1), seed: Some(random.any()) }
    }

    /// What becomes of each request that was done before the cut, in a log with sectors of this size.
    #[must_use]
    pub fn fates(&self, entries: &[Entry], sector: u64) -> Vec<Fate> {
        let done = &entries[..self.entries.min(entries.len())];
        // A flush covers what was done before it, not what comes with it.
        let flushed = done.iter().rposition(|entry| entry.flush).unwrap_or(0);
        let mut random = self.seed.map(Random::new);
        let fate = |(number, entry): (usize, &Entry)| match &mut random {
            _ if number < flushed || entry.fua => Fate::Kept,
            None => Fate::Lost,
            Some(random) => match random.below(5) {
                0 | 1 => Fate::Kept,
                2 => Fate::Torn(random.below((entry.length / sector) as usize) as u64 * sector),
                _ => Fate::Lost,
            },
        };
        done.iter().enumerate().map(fate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn write(at: u64) -> Entry {
        Entry { at, length: 4096, flush: false, fua: false, discard: false, data: 0 }
    }

    const FLUSH: Entry = Entry { length: 0, flush: true, ..write(0) };

    #[test]
    fn chance_decides_only_about_what_came_after_the_last_flush() {
        let mut entries = vec![write(0), write(1), FLUSH];
        entries.extend((0..100).map(write));
        let cut = Cut { entries: 103, seed: Some(7) };
        let fates = cut.fates(&entries, 512);
        assert_eq!(fates, cut.fates(&entries, 512), "a seed repeats itself");
        assert_eq!(fates[..2], [Fate::Kept, Fate::Kept]);
        let later = &fates[3..];
        assert!(later.contains(&Fate::Kept) && later.contains(&Fate::Lost));
        let torn = |fate: &Fate| matches!(fate, Fate::Torn(bytes) if *bytes < 4096 && bytes % 512 == 0);
        assert!(later.iter().any(torn));
        assert!(Cut::strict(103).fates(&entries, 512)[3..].iter().all(|fate| *fate == Fate::Lost));
    }

    #[test]
    fn random_cuts_are_after_flushes_and_between_them() {
        let mut entries = Vec::new();
        for _ in 0..20 {
            entries.extend([write(0), write(1), write(2), FLUSH]);
        }
        let cuts: Vec<Cut> = (0..200).map(|seed| Cut::random(&entries, 8, 60, seed)).collect();
        assert!(cuts.iter().all(|cut| (12..=60).contains(&cut.entries)));
        let strict: Vec<_> = cuts.iter().filter(|cut| cut.seed.is_none()).collect();
        assert!(strict.iter().all(|cut| entries[cut.entries - 1].flush));
        assert!((50..150).contains(&strict.len()));
        let apart = |cut: &&Cut| !entries[cut.entries - 1].flush;
        assert!(cuts.iter().filter(apart).count() > 40);
    }
}
