//! Objects that callers know by number.
//!
//! A handle is kind (8 bits), slot (24 bits) and generation (32 bits) of that slot. Freeing raises the generation, so an
//! old handle never means a new object, and no handle is 0.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::status::{BONSAI_ERROR_HANDLE, BONSAI_ERROR_MEMORY, Failure, Result};

/// Most objects at a time.
const SLOTS: usize = 1 << 24;

/// A kind of object that callers can hold.
pub(crate) trait Object: Any + Send + Sync {
    /// Not 0, and no other's.
    const KIND: u8;
    /// What messages call it.
    const NAME: &'static str;
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { slots: Vec::new(), free: Vec::new() });

struct Registry {
    slots: Vec<Slot>,
    /// Slots without an object.
    free: Vec<u32>,
}

struct Slot {
    generation: u32,
    object: Option<(u8, Arc<dyn Any + Send + Sync>)>,
}

/// Nothing panics while the lock is held, so a poisoned one is sound, too.
fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn handle(kind: u8, slot: u32, generation: u32) -> u64 {
    u64::from(kind) << 56 | u64::from(slot) << 32 | u64::from(generation)
}

/// Kind, slot and generation.
fn parts(handle: u64) -> (u8, usize, u32) {
    ((handle >> 56) as u8, (handle >> 32) as usize & (SLOTS - 1), handle as u32)
}

/// Takes an object over; gives its handle.
pub(crate) fn insert<T: Object>(object: T) -> Result<u64> {
    let object = Some((T::KIND, Arc::new(object) as Arc<dyn Any + Send + Sync>));
    let mut registry = registry();
    let slot = match registry.free.pop() {
        Some(slot) => slot,
        None if registry.slots.len() < SLOTS => {
            registry.slots.push(Slot { generation: 0, object: None });
            (registry.slots.len() - 1) as u32
        }
        None => return Err(Failure::new(BONSAI_ERROR_MEMORY, "too many handles: free some")),
    };
    let place = &mut registry.slots[slot as usize];
    place.object = object;
    Ok(handle(T::KIND, slot, place.generation))
}

/// The object of a handle. It lives as long as the answer is held, freed or not.
pub(crate) fn get<T: Object>(handle: u64) -> Result<Arc<T>> {
    let (kind, slot, generation) = parts(handle);
    let wrong =
        |what: &str| Err(Failure::new(BONSAI_ERROR_HANDLE, format!("{what}, where a {} is needed", T::NAME)));
    if handle == 0 {
        return wrong("the handle is 0");
    }
    let registry = registry();
    let object = match registry.slots.get(slot) {
        Some(Slot { generation: now, object: Some((is, object)) }) if (*now, *is) == (generation, kind) => {
            object.clone()
        }
        Some(place) if place.generation > generation => return wrong("the handle was freed"),
        _ => return wrong("this is not a handle"),
    };
    drop(registry);
    object.downcast().or_else(|_| wrong("the handle is of another kind"))
}

/// Frees the object of a handle; nothing for 0, a freed handle, or one of another kind.
pub(crate) fn remove<T: Object>(handle: u64) {
    let (kind, slot, generation) = parts(handle);
    let mut registry = registry();
    let Some(place) =
        registry.slots.get_mut(slot).filter(|place| kind == T::KIND && place.generation == generation)
    else {
        return;
    };
    let Some(object) = place.object.take_if(|(is, _)| *is == kind) else { return };
    place.generation = place.generation.saturating_add(1);
    if place.generation < u32::MAX {
        registry.free.push(slot as u32); // else its numbers are used up
    }
    drop(registry); // an object may take its time to go
    drop(object);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Pear(u32);
    #[derive(Debug)]
    struct Plum;

    impl Object for Pear {
        const KIND: u8 = 201;
        const NAME: &'static str = "pear";
    }
    impl Object for Plum {
        const KIND: u8 = 202;
        const NAME: &'static str = "plum";
    }

    #[test]
    fn a_handle_means_its_object_and_nothing_else() {
        let (a, b) = (insert(Pear(1)).unwrap(), insert(Pear(2)).unwrap());
        assert_eq!((get::<Pear>(a).unwrap().0, get::<Pear>(b).unwrap().0), (1, 2));
        let refused = |handle| get::<Plum>(handle).unwrap_err().status;
        assert_eq!(refused(a), BONSAI_ERROR_HANDLE);
        remove::<Plum>(a); // another kind: nothing happens
        let held = get::<Pear>(a).unwrap();
        remove::<Pear>(a);
        remove::<Pear>(a);
        assert_eq!(held.0, 1);
        assert!(get::<Pear>(a).is_err());
        let c = insert(Plum).unwrap();
        assert_ne!(a, c);
        assert!(get::<Pear>(a).is_err() && get::<Pear>(c).is_err() && get::<Plum>(a).is_err());
        for wrong in [0, 1, u64::MAX, a ^ 1, b ^ 1, b ^ 1 << 33, b ^ 1 << 56] {
            assert!(get::<Pear>(wrong).is_err(), "{wrong:x}");
        }
        remove::<Pear>(b);
        remove::<Plum>(c);
    }
}
